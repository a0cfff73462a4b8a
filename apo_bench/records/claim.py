"""Claims of the paper as values: what each says, what would support it, and on which ground it can be judged."""

from enum import StrEnum

from apo_bench.errors import UsageError
from apo_bench.records.contrast import Contrast
from apo_bench.records.ranges import Name
from apo_bench.records.spec import Frozen


class Support(StrEnum):
    """What of a contrast supports a claim."""

    BETTER = "better"
    NOT_WORSE = "not worse by more than the margin"


class Precondition(Frozen, frozen=True):
    """Assay sensitivity: a difference that the ground must show before it can decide a claim.

    Two methods tie on any task on which nothing makes a difference. So a claim is judged only where a difference that
    is there for sure was found, on the same task, device, budget and precision.

    Attributes:
        words: What must be shown, for a reader.
        contrast: Its left side must be better than its right one by more than its margin.
    """

    words: str
    contrast: Contrast

    def __post_init__(self) -> None:
        """Refuse a precondition that any difference meets.

        Raises:
            UsageError: Its contrast has no margin.
        """
        if self.contrast.margin is None:
            raise UsageError(f"precondition {self.contrast.name!r} has no margin; give it one")


class Question(Frozen, frozen=True):
    """One contrast that bears on a claim.

    Attributes:
        suite: Whose cells are compared.
        contrast: Left is the method that the claim is about.
        support: What supports the claim.
        precondition: What the ground must show; `None` where any ground decides, as for a count.
    """

    suite: Name
    contrast: Contrast
    support: Support
    precondition: Precondition | None = None

    def __post_init__(self) -> None:
        """Refuse a question that no finite number of runs could contradict.

        Raises:
            UsageError: Its contrast has no margin.
        """
        if self.contrast.margin is None:
            raise UsageError(f"contrast {self.contrast.name!r} of a claim has no margin; give it one")

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Its contrast, and that of its precondition."""
        return (self.contrast,) if self.precondition is None else (self.contrast, self.precondition.contrast)


class Claim(Frozen, frozen=True):
    """A claim of the paper.

    Attributes:
        id: ``C1``.
        statement: In the paper's words, shortened.
        source: Where it stands: ``P`` the poster, ``A`` the abstract or a caption.
        criterion: What decides it, for a reader.
        questions: Contrasts that bear on it; none where the scale declares no ground.
    """

    id: Name
    statement: str
    source: str
    criterion: str
    questions: tuple[Question, ...] = ()
