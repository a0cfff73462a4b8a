"""Tabular regression: two small embedded tables, and the three of UCI that the paper's regression is recalled to use.

Rows are split by groups with a fixed seed, about 70 : 15 : 15, and no group straddles two splits: for Slice a group is
a patient and for Parkinsons a subject, whose rows resemble each other so much that a split by rows would reward
remembering them; elsewhere it is all rows with the same inputs (meats has 215 rows and 193 spectra). Published results
are usually from splits by rows, and are not comparable.

Inputs and targets are standardized by the training rows' moments, so that a mean squared error of 1 is about that of
the best constant. Columns that are constant over the training rows are 0 everywhere and keep their place.
"""

import codecs
import dataclasses
import functools
import io
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data import lock
from apo_bench.data.bounded import TooLargeError, read_at_most
from apo_bench.data.checksums import verified_digest
from apo_bench.data.download import download
from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.data.location import data_folder
from apo_bench.errors import DataError

_EMBEDDED = Path(__file__).parent / "embedded" / "regression"
_UCI = "https://archive.ics.uci.edu/static/public"
_MACOS = "__MACOSX"
"""Folder in which macOS puts its own notes on each file into a zip archive."""
_LONGEST_NUMBER = 32
"""Bytes of a number with its comma."""
_NAME_LINES = 8
"""Lines of numbers that are as long as the line of names, at most."""
_SEED = 20_230
_SHARES = (70, 15)
"""Percent of the rows for training and for validation."""


@dataclasses.dataclass(frozen=True)
class Table:
    """What a file of comma-separated numbers with a line of names holds.

    Attributes:
        name: Of the dataset.
        file: Name of the file.
        rows: Lines without the first.
        features: Number of columns that are inputs.
        targets: Columns that are predicted.
        group: Column that says which rows belong together; not an input. `None`: rows with equal inputs do.
        ignored: Columns that are neither.
        url: Address of the zip archive that has the file; `None` where it is embedded.
    """

    name: str
    file: str
    rows: int
    features: int
    targets: tuple[str, ...]
    group: str | None = None
    ignored: tuple[str, ...] = ()
    url: str | None = None

    @property
    def archive(self) -> Path:
        """Where the zip archive belongs."""
        return data_folder() / self.name / f"{self.name}.zip"

    @property
    def most_bytes(self) -> int:
        """That the file can have: no number is written with more digits than a float64 has, and a name is short."""
        return (self.rows + _NAME_LINES) * self.columns * _LONGEST_NUMBER

    @property
    def columns(self) -> int:
        """Of the file."""
        return self.features + len(self.targets) + len(self.ignored) + (self.group is not None)


def load(table: Table) -> Splits:
    """Read the splits: inputs ``(n, features)`` and targets ``(n, targets)``, standardized, float32.

    Raises:
        DataError: The file is missing, its checksum does not hold, or it is not what it should be.
    """
    digest(table)
    inputs, targets, groups = _parse(table, _content(table))
    parts = _split(groups)
    x, t = (torch.from_numpy(_standardized(values, parts[0])) for values in (inputs, targets))
    train, validation, test = (Examples((x[part],), t[part]) for part in parts)
    return Splits(train, validation, test)


def digest(table: Table) -> str:
    """Hold the file to its checksum and return a hash of it.

    Raises:
        DataError: The file is missing or its checksum does not hold.
    """
    if table.url is None:
        return verified_digest(_EMBEDDED)
    return lock.check(_source(table))


def fetch(table: Table) -> None:
    """Download the archive into the data folder, unless it is there.

    Raises:
        DataError: The download fails, or what came is no zip archive.
    """
    if table.url is None:
        raise ValueError(f"{table.name} is embedded")
    download([table.url], table.archive)
    if not zipfile.is_zipfile(table.archive):
        table.archive.unlink()
        raise DataError(f"{table.url} did not send a zip archive; try again later, or put it at {table.archive}")
    lock.check(table.archive)


def _how_to_fix(table: Table) -> str:
    return (
        f"run `apo-bench data fetch {table.name}`, or put {table.url} there "
        "($APO_BENCH_DATA names another folder than the cache)"
    )


def _source(table: Table) -> Path:
    """The archive, or the file itself where a browser has unpacked the archive.

    Raises:
        DataError: Neither is there.
    """
    if table.archive.exists():
        return table.archive
    unpacked = [path for path in sorted(table.archive.parent.rglob(table.file)) if _MACOS not in path.parts]
    if not unpacked:
        raise DataError(f"{table.name}: {table.archive} is missing; {_how_to_fix(table)}")
    return unpacked[0]


_DAMAGED = (
    *(TooLargeError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(NotImplementedError, RuntimeError),  # of bits of a header: another compression, or a password
)


def _content(table: Table) -> bytes:
    if table.url is None:
        return (_EMBEDDED / table.file).read_bytes()
    source = _source(table)
    try:
        if source != table.archive:
            with source.open("rb") as file:
                return read_at_most(file, table.most_bytes, table.file)
        with zipfile.ZipFile(table.archive) as archive:
            places = ((name, PurePosixPath(name)) for name in archive.namelist())
            found = [name for name, place in places if place.name == table.file and _MACOS not in place.parts]
            if len(found) != 1:
                raise DataError(
                    f"{table.archive} has {len(found)} files {table.file} and should have one; {_again(table)}"
                )
            with archive.open(found[0]) as file:
                return read_at_most(file, table.most_bytes, table.file)
    except (
        TooLargeError,
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DataError(f"{source} is damaged ({error}); {_again(table)}") from error


def _again(table: Table) -> str:
    return (
        f"delete it and its line in {data_folder() / lock.LOCK}, then run `apo-bench data fetch {table.name}`"
        if table.url
        else "reinstall apo-bench"
    )


def _parse(table: Table, content: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Inputs ``(n, features)``, targets ``(n, targets)`` and the number of each row's group."""
    where = f"{table.name}: {table.file}"
    first, _, rest = content.removeprefix(codecs.BOM_UTF8).partition(b"\n")  # a spreadsheet may have saved it
    names = [name.strip(' "\r') for name in first.decode(errors="replace").split(",")]
    special = [*table.targets, *table.ignored, *([table.group] if table.group else [])]
    if len(names) != table.columns or (absent := set(special) - set(names)):
        raise DataError(
            f"{where} has {len(names)} columns"
            + (f" without {', '.join(sorted(absent))}" if len(names) == table.columns else "")
            + f", expected {table.columns}; {_again(table)}"
        )
    try:
        values = np.loadtxt(io.BytesIO(rest), delimiter=",", ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where} is not a table of numbers ({error}); {_again(table)}") from error
    if values.shape != (table.rows, table.columns):
        raise DataError(
            f"{where} has {values.shape[0]} rows of {values.shape[1]} numbers, expected {table.rows} of "
            f"{table.columns}; {_again(table)}"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{where} has numbers that are not finite; {_again(table)}")
    inputs = values[:, _places(names, set(names) - set(special))]
    belongs = inputs if table.group is None else values[:, [names.index(table.group)]]
    _, groups = np.unique(belongs, axis=0, return_inverse=True)
    return inputs, values[:, [names.index(name) for name in table.targets]], groups.reshape(-1)


def _places(names: list[str], wanted: Collection[str]) -> list[int]:
    return [place for place, name in enumerate(names) if name in wanted]


def _split(groups_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers of the three splits, ascending.

    Groups come in a random order that depends only on their number. A split takes each group that still fits in, and
    leaves the others to the next split, the last of which takes all.
    """
    sizes = np.bincount(groups_N)
    waiting = np.random.default_rng(_SEED).permutation(len(sizes)).tolist()
    splits = []
    for share in _SHARES:
        room = len(groups_N) * share // 100
        left: list[int] = []
        taken: list[int] = []
        for group in waiting:
            fits = sizes[group] <= room
            (taken if fits else left).append(group)
            room -= int(sizes[group]) if fits else 0
        splits.append(taken)
        waiting = left
    return [np.flatnonzero(np.isin(groups_N, part)) for part in (*splits, waiting)]


def _standardized(values: NDArray[np.float64], train: NDArray[np.int64]) -> NDArray[np.float32]:
    seen = values[train]
    varies = seen.max(0) > seen.min(0)
    deviation = np.where(varies, seen.std(0), 1.0)  # of a constant it may be a rounding error instead of 0
    return np.where(varies, (values - seen.mean(0)) / deviation, 0.0).astype(np.float32)


def _blank(table: Table, n: int) -> Batch:
    return Batch((torch.zeros(n, table.features),), torch.zeros(n, len(table.targets)))


def _dataset(table: Table, sizes: tuple[int, int, int] | None = None) -> Dataset:
    fetcher: Callable[[], None] | None = functools.partial(fetch, table) if table.url else None
    return Dataset(
        name=table.name,
        load=functools.partial(load, table),
        digest=functools.partial(digest, table),
        fetch=fetcher,
        sizes=sizes,
        blank=functools.partial(_blank, table),
    )


CONCRETE_TABLE = Table(name="concrete", file="concrete.csv", rows=1_030, features=8, targets=("compressive_strength",))
"""Compressive strength of concrete (Yeh, 1998) from its mixture and age."""
MEATS_TABLE = Table(name="meats", file="meats.csv", rows=215, features=100, targets=("water", "fat", "protein"))
"""Water, fat and protein of meat from its near-infrared spectrum (Thodberg, 1993); inputs of condition number 3.6e6."""
SLICE_TABLE = Table(
    name="slice",
    file="slice_localization_data.csv",
    rows=53_500,
    features=384,
    targets=("reference",),
    group="patientId",
    url=f"{_UCI}/206/relative+location+of+ct+slices+on+axial+axis.zip",
)
"""Place of a CT slice along the body's axis (Graf et al., 2011) from two histograms."""
PROTEIN_TABLE = Table(
    name="protein",
    file="CASP.csv",
    rows=45_730,
    features=9,
    targets=("RMSD",),
    url=f"{_UCI}/265/physicochemical+properties+of+protein+tertiary+structure.zip",
)
"""Deviation of a decoy from a protein's structure (Rana, 2013) from nine physicochemical properties."""
PARKINSONS_TABLE = Table(
    name="parkinsons",
    file="parkinsons_updrs.data",
    rows=5_875,
    features=19,
    targets=("total_UPDRS",),
    group="subject#",
    ignored=("motor_UPDRS",),
    url=f"{_UCI}/189/parkinsons+telemonitoring.zip",
)
"""Total UPDRS score from age, sex, time and 16 measures of the voice (Tsanas et al., 2009).

The motor score, a summand of the total, is no input. There are 42 subjects: expect little on unseen ones.
"""

CONCRETE = _dataset(CONCRETE_TABLE, sizes=(721, 154, 155))
MEATS = _dataset(MEATS_TABLE, sizes=(150, 32, 33))
PROTEIN = _dataset(PROTEIN_TABLE, sizes=(32_011, 6_859, 6_860))
# How large the groups of these are is known only after loading.
SLICE = _dataset(SLICE_TABLE)
PARKINSONS = _dataset(PARKINSONS_TABLE)
