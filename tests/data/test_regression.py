"""Tables for regression: embedded ones whole, those of UCI on small files in the same format; no network."""

import dataclasses
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apo_bench.data import lock, regression
from apo_bench.data.examples import Dataset
from apo_bench.data.regression import CONCRETE, CONCRETE_TABLE, MEATS, MEATS_TABLE, Table
from apo_bench.errors import DataError
from apo_bench.plugins.task import Task
from apo_bench.tasks import tabular

GROUPED = Table(
    name="grouped",
    file="grouped.csv",
    rows=60,
    features=3,
    targets=("y",),
    group="who",
    ignored=("leak",),
    url="http://127.0.0.1:9/grouped.zip",
)


def _csv(rows: int = 60) -> str:
    """Groups of 4 rows; the second feature is constant; ``leak`` is the target."""
    source = np.random.default_rng(0)
    lines = ['"who","a","b","leak","c","y"']
    for row in range(rows):
        a, c, y = source.standard_normal(3)
        lines.append(f"{row % 15},{a},7,{y},{c},{y}")
    return "\n".join(lines) + "\n"


def _write(table: Table, text: str, member: str = "some folder/grouped.csv") -> None:
    table.archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(table.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
        archive.writestr("readme.txt", "nothing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("dataset", "table"), [(CONCRETE, CONCRETE_TABLE), (MEATS, MEATS_TABLE)])
def test_embedded_tables(dataset: Dataset, table: Table) -> None:
    splits = dataset.load()
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == table.rows
    for standardized in (*splits.train.inputs, splits.train.targets):
        width = standardized.shape[1]
        torch.testing.assert_close(standardized.mean(0), torch.zeros(width), rtol=0, atol=1e-4)
        torch.testing.assert_close(standardized.std(0, correction=0), torch.ones(width), rtol=0, atol=1e-4)
    rows = [{tuple(row) for row in part.inputs[0].tolist()} for part in parts]
    assert sum(map(len, rows)) == len(set.union(*rows))


def test_the_columns_are_what_they_are_called() -> None:
    """Standardizing is affine, so each column correlates perfectly with its own in the file."""
    raw = np.loadtxt(regression._EMBEDDED / "meats.csv", delimiter=",", skiprows=1)
    groups = np.unique(raw[:, :100], axis=0, return_inverse=True)[1]
    train = regression._split(groups)[0]
    splits = MEATS.load()
    ours = np.concatenate([splits.train.inputs[0].numpy(), splits.train.targets.numpy()], axis=1)
    for column in (0, 57, 99, 100, 101, 102):
        assert np.corrcoef(ours[:, column], raw[train, column])[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_an_embedded_table_that_is_damaged_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(regression._EMBEDDED, tmp_path / "data")
    monkeypatch.setattr(regression, "_EMBEDDED", tmp_path / "data")
    (tmp_path / "data" / "meats.csv").write_text("x\n")
    with pytest.raises(DataError, match=r"meats\.csv is damaged .*; reinstall"):
        MEATS.load()


def test_groups_stay_together_and_constants_are_zero(folder: Path) -> None:
    _write(GROUPED, _csv())
    splits = regression.load(GROUPED)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [40, 8, 12]  # 10, 2 and 3 groups of 4
    assert all(not part.inputs[0][:, 1].any() for part in parts)
    values = np.loadtxt(_csv().splitlines()[1:], delimiter=",")
    train = regression._split(values[:, 0].astype(np.int64))[0]
    mean, std = values[train, 5].mean(), values[train, 5].std()
    nearest = [np.abs(values[:, 5] - (part.targets.double().numpy() * std + mean)).argmin(1) for part in parts]
    groups = [set(values[rows, 0].tolist()) for rows in nearest]
    assert [len(members) for members in groups] == [10, 2, 3]
    assert len(set.union(*groups)) == 15


def test_ignored_columns_and_groups_are_no_inputs(folder: Path) -> None:
    _write(GROUPED, _csv())
    train = regression.load(GROUPED).train
    assert train.inputs[0].shape[1] == 3
    both = torch.cat([train.inputs[0][:, [0, 2]], train.targets], 1)
    assert torch.corrcoef(both.T)[:2, 2].abs().max() < 0.5


def test_a_large_group_is_left_to_a_split_with_room() -> None:
    groups = np.array([0] * 12 + list(range(1, 89)))
    parts = regression._split(groups)
    assert [len(part) for part in parts] == [70, 15, 15]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "\n".join(text.splitlines()[:31]), "has 30 rows of 6 numbers, expected 60 of 6"),
        (lambda text: text[:-30], "is not a table of numbers"),
        (lambda text: text.replace('"who",', "").replace("\n", "\n1,"), "has 5 columns, expected 6"),
        (lambda text: text.replace('"y"', '"z"'), "has 6 columns without y"),
        (lambda text: text.replace(",7,", ",nan,"), "numbers that are not finite"),
        (lambda text: text.replace(",7,", ",word,"), "is not a table of numbers"),
        (lambda text: "", "has 1 columns"),
    ],
)
def test_a_table_that_is_not_what_it_should_be_is_one_line(
    folder: Path, damage: Callable[[str], str], message: str
) -> None:
    _write(GROUPED, damage(_csv()))
    with pytest.raises(DataError, match=message) as caught:
        regression.load(GROUPED)
    (line,) = str(caught.value).splitlines()
    assert "apo-bench data fetch grouped" in line


def test_an_archive_that_unpacks_to_more_than_it_can_is_one_line(folder: Path) -> None:
    """A hundred kilobytes of archive, a hundred megabytes of zeros: no more than the table can have is unpacked."""
    GROUPED.archive.parent.mkdir(exist_ok=True)
    zeros = b"0" * 2**20
    with (
        zipfile.ZipFile(GROUPED.archive, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("grouped.csv", "w", force_zip64=True) as file,
    ):
        for _ in range(100):
            file.write(zeros)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"unpacks to more than [0-9,]+ bytes, which it cannot have"):
            regression.load(GROUPED)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_an_archive_without_the_file_is_one_line(folder: Path) -> None:
    _write(GROUPED, _csv(), member="other.csv")
    with pytest.raises(DataError, match=r"has 0 files grouped\.csv"):
        regression.load(GROUPED)


@pytest.mark.parametrize("cut", [10, 500])
def test_a_truncated_archive_is_one_line(folder: Path, cut: int) -> None:
    _write(GROUPED, _csv())
    GROUPED.archive.write_bytes(GROUPED.archive.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"grouped\.zip is damaged \(.*\); delete it"):
        regression.load(GROUPED)


@pytest.mark.parametrize("place", [6, 8, 60])
def test_an_archive_with_flipped_bits_is_one_line(folder: Path, place: int) -> None:
    """In its flags (it seems encrypted), in its method of compression, and in the compressed numbers."""
    _write(GROUPED, _csv())
    content = bytearray(GROUPED.archive.read_bytes())
    central = content.index(b"PK\x01\x02")
    for at in (place, central + place + 2) if place < 10 else range(place, place + 30):
        content[at] ^= 0xFF if place > 10 else 1
    GROUPED.archive.write_bytes(content)
    with pytest.raises(DataError, match=r"grouped\.zip is damaged \(.*\); delete it") as caught:
        regression.load(GROUPED)
    assert len(str(caught.value).splitlines()) == 1


def test_another_archive_than_the_first_is_refused_before_it_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(GROUPED, _csv())
    before = regression.digest(GROUPED)
    assert regression.digest(GROUPED) == before
    _write(GROUPED, _csv().replace(",7,", ",8,"))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError, match=r"is not the file whose checksum .*delete the file and fetch it again"):
        regression.load(GROUPED)


@pytest.mark.parametrize("table", [regression.SLICE_TABLE, regression.PROTEIN_TABLE, regression.PARKINSONS_TABLE])
def test_absent_data_are_one_line_with_the_place(folder: Path, table: Table) -> None:
    with pytest.raises(DataError) as caught:
        regression.load(table)
    (line,) = str(caught.value).splitlines()
    assert f"apo-bench data fetch {table.name}" in line
    assert str(folder) in line


def test_a_download_that_fails_is_one_line(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download http://127\.0\.0\.1:9/grouped\.zip: .*by hand") as caught:
        regression.fetch(GROUPED)
    assert len(str(caught.value).splitlines()) == 1


def test_a_download_is_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "download", lambda urls, file: _write(GROUPED, _csv()))
    regression.fetch(GROUPED)
    assert regression.digest(GROUPED) in (folder / lock.LOCK).read_text()
    assert len(regression.load(GROUPED).train) == 40


def test_a_page_in_place_of_an_archive_is_not_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(urls: list[str], file: Path) -> None:
        file.parent.mkdir()
        file.write_text("<html>Log in</html>")

    monkeypatch.setattr(regression, "download", page)
    with pytest.raises(DataError, match="did not send a zip archive"):
        regression.fetch(GROUPED)
    assert not GROUPED.archive.exists()
    assert not (folder / lock.LOCK).exists()


@pytest.mark.parametrize("table", [regression.SLICE_TABLE, regression.PROTEIN_TABLE, regression.PARKINSONS_TABLE])
def test_declared_columns_suffice_to_load_a_file_of_that_form(folder: Path, table: Table) -> None:
    """Shapes from load agree with what the dataset says is its blank batch."""
    small = dataclasses.replace(table, rows=120)
    names = [f"v{i}" for i in range(table.features)]
    names += [*table.targets, *table.ignored, *([table.group] if table.group else [])]
    source = np.random.default_rng(1)
    values = source.standard_normal((120, len(names)))
    if table.group:
        values[:, -1] = np.arange(120) // 6
    lines = [",".join(names), *(",".join(f"{v:.5f}" for v in row) for row in values)]
    _write(small, "\n".join(lines), member=table.file)
    train = regression.load(small).train
    blank = regression._blank(table, 3)
    assert blank.inputs[0].shape[1:] == train.inputs[0].shape[1:]
    assert blank.targets.shape[1:] == train.targets.shape[1:]


def test_protein_has_the_declared_sizes_if_its_rows_differ() -> None:
    assert tuple(map(len, regression._split(np.arange(regression.PROTEIN_TABLE.rows)))) == regression.PROTEIN.sizes


@pytest.mark.parametrize("make", [tabular.concrete_mlp, tabular.meats_mlp])
def test_the_trivial_predictor(make: Callable[[], Task]) -> None:
    task = make()
    validation = task.dataset.load().validation
    total = task.metric.total(torch.zeros_like(validation.targets), validation.slice(0, len(validation)))  # type: ignore[union-attr] # a pointwise metric
    assert task.trivial == pytest.approx(float(total) / len(validation), abs=5e-4)


@pytest.mark.parametrize(
    "make",
    [tabular.concrete_mlp, tabular.meats_mlp, tabular.slice_mlp, tabular.protein_mlp, tabular.parkinsons_mlp],
)
def test_networks_fit_their_data(make: Callable[[], Task]) -> None:
    task = make()
    assert task.dataset.blank is not None
    batch = task.dataset.blank(4)
    outputs = task.model()(*batch.inputs)
    assert outputs.shape == batch.targets.shape
    assert task.objective.loss(outputs, batch).isfinite()


def test_a_byte_order_mark_changes_nothing(folder: Path) -> None:
    """A spreadsheet that saves the file puts one before the first name, here that of the groups."""
    _write(GROUPED, _csv())
    plain = regression.load(GROUPED)
    (folder / lock.LOCK).unlink()
    _write(GROUPED, "\ufeff" + _csv().replace("\n", "\r\n"))
    marked = regression.load(GROUPED)
    assert torch.equal(plain.train.inputs[0], marked.train.inputs[0])
    assert torch.equal(plain.test.targets, marked.test.targets)


@pytest.mark.parametrize("member", ["__MACOSX/grouped.csv", "__MACOSX/b/grouped.csv", "__MACOSX/._grouped.csv"])
def test_what_macos_adds_to_an_archive_is_passed_over(folder: Path, member: str) -> None:
    _write(GROUPED, _csv())
    with zipfile.ZipFile(GROUPED.archive, "a") as archive:
        archive.writestr(member, b"\x00\x05\x16\x07")
    assert len(regression.load(GROUPED).train) > 0


@pytest.mark.parametrize("place", ["grouped.csv", "grouped/some folder/grouped.csv"])
def test_an_archive_that_a_browser_has_unpacked_is_read_and_held_to_its_checksum(folder: Path, place: str) -> None:
    _write(GROUPED, _csv())
    packed = regression.load(GROUPED)
    GROUPED.archive.unlink()
    file = GROUPED.archive.parent / place
    for path, text in ((file, _csv()), (GROUPED.archive.parent / "__MACOSX" / "grouped.csv", "notes")):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
    assert torch.equal(regression.load(GROUPED).train.inputs[0], packed.train.inputs[0])
    file.write_text(_csv().replace(",7,", ",8,"), encoding="utf-8")
    with pytest.raises(DataError, match=r"grouped\.csv is not the file whose checksum"):
        regression.load(GROUPED)
