"""What a record says of a run beside its result: what it achieved and used, what the task was, where it was made."""

from enum import StrEnum

from apo_bench.records.ranges import Amount, Count, Duration, Message, Name, Positive, Text
from apo_bench.records.spec import Frozen


class Direction(StrEnum):
    """Whether more or less of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Axis(StrEnum):
    """How values of a quantity are compared: by their differences, or by their ratios."""

    LINEAR = "linear"
    LOG = "log"


class PrecisionBackend(StrEnum):
    """Whether the device computes in the stated format or its results are emulated."""

    NATIVE = "native"
    EMULATED = "emulated"


class Scores(Frozen, frozen=True):
    """What the run achieved; `None` where a diverged run has no such number.

    Attributes:
        test: The reported score: the metric on the test set, evaluated once, after the last step.
        validation: The metric on the validation set after the last step.
        best_validation: The best of the curve, never the reported score.
    """

    test: float | None = None
    validation: float | None = None
    best_validation: float | None = None


class Cost(Frozen, frozen=True):
    """What the run used. `None`, or an empty mapping, where it was not measured.

    Attributes:
        steps: Optimizer steps taken, skipped ones included.
        skipped_steps: Steps skipped because a scaled gradient overflowed.
        train_seconds: Training clock: what the update rule took. In records of schema 1 drawing the batches is in it.
        eval_seconds: Time spent evaluating.
        data_seconds: Time spent drawing and augmenting the batches of the steps.
        phases: Seconds of the training clock by phase (`apo_bench.problem.ledger`).
        step_ms: Median over blocks of steps of the mean time of a step, in milliseconds.
        peak_memory_bytes: Of training, evaluations and checkpoints aside: the allocator's peak on CUDA, the peak
            resident set of the run's process on a CPU.
        baseline_memory_bytes: What of the peak is none of the training's. On a CPU, the resident set before data and
            network were made: the interpreter and torch. On CUDA, what the allocator had given out before the network
            was made: the data.
        peak_reserved_bytes: On CUDA, the most that the allocator had reserved.
        process_memory_bytes: On CUDA, what the driver says the process holds, its context included.
        state_bytes: Bytes held by the optimizer beside parameters and gradients.
        bytes_by_purpose: The same by purpose, with ``parameters``, ``gradients`` and ``buffers``.
        flops_per_step: Floating-point operations of a step, a mean over a whole cycle of the optimizer's intervals.
        operator_calls_per_step: Calls of torch operators of a step, likewise.
        not_counted: Why one of these two, or both, are not known, in one line.
        energy_joules: Energy that the card used from the first step to the last evaluation.
        clock_mhz: Lowest and highest clock of the card's multiprocessors, as sampled at every evaluation.
        throttle_reasons: Reasons that the driver gave for lowered clocks at any of these moments.
        foreign_processes: The most other processes seen on the card at any of them.
    """

    steps: Count
    skipped_steps: Count
    train_seconds: Duration
    eval_seconds: Duration
    step_ms: Duration | None
    peak_memory_bytes: Count | None
    state_bytes: Count | None
    data_seconds: Duration | None = None
    phases: dict[Name, Duration] = {}  # noqa: RUF012 - msgspec copies it
    baseline_memory_bytes: Count | None = None
    peak_reserved_bytes: Count | None = None
    process_memory_bytes: Count | None = None
    bytes_by_purpose: dict[Name, Count] = {}  # noqa: RUF012
    flops_per_step: Amount | None = None
    operator_calls_per_step: Amount | None = None
    not_counted: Message | None = None
    energy_joules: Amount | None = None
    clock_mhz: tuple[Count, Count] | None = None
    throttle_reasons: tuple[Name, ...] = ()
    foreign_processes: Count | None = None


class TaskFacts(Frozen, frozen=True):
    """What the task was, so that a record can be read without the code that made it.

    Attributes:
        dataset: Name.
        model: Name.
        parameters: Trainable or not.
        train_examples: Size of the training set.
        validation_examples: Size of the validation set.
        test_examples: Size of the test set.
        batch_size: Examples a step.
        steps_per_epoch: Steps in a pass over the training set.
        metric: Name, with its unit.
        direction: Whether more of it is better.
        metric_signature: What one must know to compute the same number, where the metric says so.
        target: Validation metric to be reached; `None` where the task has none, and in records before schema 3.
        target_version: Counts the targets that the task has had.
        trivial: Validation metric of the best predictor that does not look at the inputs, where it is known.
        metric_axis: How its values are compared, where the metric says so; `None` also in records of versions that did
            not ask (`apo_bench.evidence.quantities.axis_of`).
    """

    dataset: Name
    model: Name
    parameters: Count
    train_examples: Count
    validation_examples: Count
    test_examples: Count
    batch_size: Positive
    steps_per_epoch: Positive
    metric: Name
    direction: Direction
    metric_signature: Message | None = None
    target: float | None = None
    target_version: Count | None = None
    trivial: float | None = None
    metric_axis: Axis | None = None


class PrecisionFacts(Frozen, frozen=True):
    """How the precision was realized; ``kept_fp32`` lists what stays in single precision."""

    backend: PrecisionBackend
    kept_fp32: tuple[Name, ...]


class Environment(Frozen, frozen=True):
    """Where a run was made.

    Attributes:
        apo_bench: Version of this package.
        git_sha: Revision of the checkout that it lies in, else the one it was built from.
        dirty: Whether that tree was modified.
        python: Version.
        torch: Version.
        platform: Operating system and processor architecture.
        device_name: The card, or the processor.
        cpu_count: Logical processors of the machine.
        threads: CPU threads of torch.
        threads_from: What said how many: an option, an environment variable, or what bounds the cores.
        deterministic: Whether torch was told to use deterministic algorithms.
        cuda: Version of CUDA that torch was built for.
        cudnn: Version.
        driver: Version of the card's driver.
        allocator: torch's allocator on CUDA.
        flags: Other switches of torch that change numbers or speed, by name.
        variables: Environment variables that change numbers or speed, by name.
        packages: Versions of other packages that a run may compute with.
        co_scheduled: How many other runs the same command could have in flight meanwhile.
    """

    apo_bench: Name
    git_sha: Name | None
    dirty: bool | None
    python: Name
    torch: Name
    platform: Name
    device_name: Name
    cpu_count: Count
    threads: Count
    deterministic: bool
    cuda: Name | None = None
    cudnn: Count | None = None
    driver: Name | None = None
    allocator: Name | None = None
    flags: dict[Name, Text] = {}  # noqa: RUF012
    variables: dict[Name, Text] = {}  # noqa: RUF012
    packages: dict[Name, Text] = {}  # noqa: RUF012
    co_scheduled: Count | None = None
    threads_from: Name | None = None
