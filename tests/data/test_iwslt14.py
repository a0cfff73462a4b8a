"""IWSLT14 on a small archive in the format of the original; no network."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from apo_bench.data import bpe, iwslt14, lock
from apo_bench.data.iwslt14 import IWSLT14_DE_EN
from apo_bench.errors import DataError
from apo_bench.plugins.metrics import CorpusMetric
from apo_bench.tasks.translation import iwslt14_transformer

SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
ABOUT = "<url>http://x</url>\n<keywords>a, b</keywords>\n<speaker>S</speaker>\n<talkid>1</talkid>\n"
LONG = " ".join(["wort"] * 176)
FILTERED = [("", "Empty"), ("Leer", " "), (LONG, LONG), ("eins zwei", "one two three four"), ("a b c d", "a b")]
KEPT = [
    ("Ein Titel", "A Title"),
    ("Eine Beschreibung", "A Description"),
    ("Über  uns &amp; euch", "About us &amp; you"),
    ("eins zwei", "one two three"),
    *((f"Satz Nummer {n}\u2028hier", f"Sentence number {n}, here") for n in range(44)),
]


def _member(side: int, *, wrap: bool = True) -> str:
    lines = [pair[side] for pair in KEPT]
    if wrap:
        lines[:2] = [f"<title>{lines[0]}</title>", f"<description>{lines[1]}</description>"]
    # Only one side names its translator, as in the original, where sides differ in what is about a talk.
    extra = '<translator href="t">T</translator>\n' if side else ""
    return ABOUT + extra + "\n".join([*lines[:5], *(pair[side] for pair in FILTERED), *lines[5:]]) + "\n"


def _xml(number: int, language: str) -> str:
    other = " ".join(["x"] * (9 if language == "en" else 1))
    segments = [f"Test &lt;{number}&gt; &quot;{language}&quot;", other]
    body = "\n".join(f'<seg id="{place}"> {text} </seg>' for place, text in enumerate(segments, 1))
    return f'<?xml version="1.0"?>\n<mteval>\n<doc docid="1">\n<title>No segment</title>\n{body}\n</doc>\n</mteval>\n'


def _files() -> dict[str, str]:
    files = {f"de-en/train.tags.de-en.{name}": _member(side) for side, name in enumerate(("de", "en"))}
    for number, name in enumerate(SETS):
        files |= {f"de-en/IWSLT14.{name}.de-en.{side}.xml": _xml(number, side) for side in ("de", "en")}
    return files


def _write(files: dict[str, str]) -> None:
    iwslt14.archive().parent.mkdir(exist_ok=True)
    with tarfile.open(iwslt14.archive(), "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(iwslt14, "PIECES", 300)
    monkeypatch.setattr(iwslt14, "URL", "http://127.0.0.1:9/de-en.tgz")
    return tmp_path


def _line(call: Callable[[], object] = IWSLT14_DE_EN.load) -> str:
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_training_pairs_are_cleaned_and_filtered_and_every_23rd_of_the_rest_validates() -> None:
    _write(_files())
    text = iwslt14.pairs()
    assert (len(KEPT), len(text["train"]), len(text["valid"])) == (48, 46, 2)
    assert text["train"][:4] == [
        ("ein titel", "a title"),
        ("eine beschreibung", "a description"),
        ("über uns & euch", "about us & you"),
        ("eins zwei", "one two three"),
    ]
    assert text["valid"] == [(f"satz nummer {n} hier", f"sentence number {n}, here") for n in (18, 41)]
    assert not set(text["valid"]) & set(text["train"])


def test_the_test_split_is_five_sets_in_order_and_unfiltered() -> None:
    _write(_files())
    text = iwslt14.pairs()["test"]
    assert text[::2] == [(f'test <{n}> "de"', f'test <{n}> "en"') for n in range(5)]
    assert text[1::2] == [("x", "x x x x x x x x x")] * 5


def test_splits_are_encoded_and_decode_to_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    _write(_files())
    splits = IWSLT14_DE_EN.load()
    text = iwslt14.pairs()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [46, 2, 10]
    for name, part in (("train", splits.train), ("valid", splits.validation), ("test", splits.test)):
        sources = iwslt14.decode(part.inputs[0].tolist())
        targets = iwslt14.decode(part.targets.tolist())
        assert sorted(zip(sources, targets, strict=True)) == sorted(text[name])
    assert bpe.vocabulary(iwslt14.tokenizer()) == 300
    longest = int(splits.train.lengths_NP[:, :2].max()) - 1 if splits.train.lengths_NP is not None else 0
    monkeypatch.setattr(iwslt14, "LONGEST", longest - 1)
    fewer = IWSLT14_DE_EN.load()
    assert len(fewer.train) < 46
    assert [len(part) for part in (fewer.validation, fewer.test)] == [2, 10]


def test_the_tokenizer_is_trained_once_and_then_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(_files())
    digest = IWSLT14_DE_EN.digest()
    path = iwslt14.tokenizer()
    assert path.name in (folder / lock.LOCK).read_text(encoding="utf-8")
    assert path.parent == iwslt14.archive().parent
    with monkeypatch.context() as untrained:
        untrained.delattr(bpe, "train_bpe")
        IWSLT14_DE_EN.load()
        assert IWSLT14_DE_EN.digest() == digest
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n")
    for call in (IWSLT14_DE_EN.load, IWSLT14_DE_EN.digest, lambda: iwslt14.decode([[5]])):
        line = _line(call)
        assert "is not the file whose checksum" in line
        assert "delete the tokenizer, and it is trained again" in line
    path.unlink()
    assert IWSLT14_DE_EN.digest() == digest
    assert path.read_bytes() == whole


def test_another_archive_gets_another_tokenizer(folder: Path) -> None:
    _write(_files())
    path, digest = iwslt14.tokenizer(), IWSLT14_DE_EN.digest()
    _write({name: text.replace("Nummer", "Nr.") for name, text in _files().items()})
    (folder / lock.LOCK).unlink()
    assert iwslt14.tokenizer() != path
    assert IWSLT14_DE_EN.digest() != digest


def test_a_missing_archive() -> None:
    line = _line()
    assert f"{iwslt14.archive()} is missing; run `apo-bench data fetch iwslt14-de-en`, or put" in line


def test_an_archive_of_another_checksum_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    _write(_files())
    IWSLT14_DE_EN.digest()
    iwslt14.archive().write_bytes(iwslt14.archive().read_bytes() + b"\0")
    monkeypatch.delattr(tarfile, "open")
    assert "is not the file whose checksum" in _line()
    assert "is not the file whose checksum" in _line(IWSLT14_DE_EN.digest)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"no archive", lambda _: b""])
def test_a_damaged_archive(damage: Callable[[bytes], bytes]) -> None:
    _write(_files())
    iwslt14.archive().write_bytes(damage(iwslt14.archive().read_bytes()))
    line = _line()
    assert "is damaged (" in line
    assert "delete it and its line in" in line


@pytest.mark.parametrize("name", ["de-en/train.tags.de-en.de", "de-en/filler"])
def test_an_archive_that_unpacks_to_more_than_it_can_have(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both a file that is read and one that is only passed over."""
    monkeypatch.setattr(iwslt14, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(iwslt14, "_MOST_UNPACKED", 100_000)
    _write(_files())
    assert len(iwslt14.pairs()["train"]) > 0
    iwslt14.archive().unlink()
    (folder / lock.LOCK).unlink()
    _write({name: "x" * 200_000} | ({} if "train" in name else _files()))
    assert "unpacks to more than 10" in _line()


def test_a_missing_member() -> None:
    files = _files()
    del files["de-en/IWSLT14.TED.tst2011.de-en.en.xml"]
    _write(files)
    assert "has no de-en/IWSLT14.TED.tst2011.de-en.en.xml; delete it and its line in" in _line()


@pytest.mark.parametrize(
    ("member", "more", "message"),
    [
        (
            "train.tags.de-en.de",
            "more\n",
            "train.tags.de-en.de has 54 sentences and train.tags.de-en.en has 53; delete",
        ),
        ("IWSLT14.TED.tst2010.de-en.en.xml", "<seg id='3'>more</seg>", "de.xml has 2 sentences and "),
    ],
)
def test_sides_of_different_length(member: str, more: str, message: str) -> None:
    files = _files()
    files[f"de-en/{member}"] += more
    _write(files)
    assert message in _line()


def test_a_set_without_sentences() -> None:
    files = _files()
    for side in ("de", "en"):
        files[f"de-en/IWSLT14.TED.tst2012.de-en.{side}.xml"] = "<mteval></mteval>"
    _write(files)
    assert "IWSLT14.TED.tst2012.de-en.de.xml has no sentences; delete" in _line()


def test_fetch_without_network_says_where_the_file_belongs() -> None:
    line = _line(iwslt14.fetch)
    assert "cannot download http://127.0.0.1:9/de-en.tgz" in line
    assert f"put the file at {iwslt14.archive()} by hand" in line


def test_fetch_keeps_what_is_there_and_refuses_what_is_no_archive(folder: Path) -> None:
    _write(_files())
    iwslt14.fetch()
    assert lock.check(iwslt14.tokenizer()) in (folder / lock.LOCK).read_text(encoding="utf-8")
    iwslt14.archive().write_bytes(b"<html>not found</html>")
    assert "did not send a tar archive; try again later" in _line(iwslt14.fetch)
    assert not iwslt14.archive().exists()


def test_the_task_is_the_recalled_model_on_lowercased_text() -> None:
    task = iwslt14_transformer()
    assert f"{task.dataset.name}.{task.model_name}" == "iwslt14-de-en.transformer"
    assert task.source == "[P] E5, model [R]"
    assert task.metric.name == "BLEU"
    assert isinstance(task.metric, CorpusMetric)
    assert task.metric.signature.endswith("|lowercased")
    assert task.dataset.blank is not None
    assert task.dataset.blank(2).targets.shape == (2, 28)


@pytest.mark.parametrize("name", ["de-en.tgz", "de-en.tar"])
def test_an_archive_that_a_browser_has_decompressed_is_read(name: str) -> None:
    _write(_files())
    texts = iwslt14.pairs()
    content = gzip.decompress(iwslt14.archive().read_bytes())
    folder = iwslt14.archive().parent
    iwslt14.archive().unlink()
    (folder / name).write_bytes(content)
    (folder.parent / lock.LOCK).unlink()
    assert iwslt14.pairs() == texts
    assert len(IWSLT14_DE_EN.load().test) == len(texts["test"])


def test_an_archive_that_a_browser_has_unpacked_into_a_folder_says_how_to_pack_it() -> None:
    (iwslt14.archive().parent / "de-en").mkdir(parents=True)
    assert "de-en lies beside it: a browser has unpacked it; run `tar -czf " in _line()


def test_a_byte_order_mark_makes_no_sentence_of_the_first_line() -> None:
    _write(_files())
    texts = iwslt14.pairs()
    (iwslt14.archive().parent.parent / lock.LOCK).unlink()
    _write({name: f"\ufeff{text}" for name, text in _files().items()})
    assert iwslt14.pairs() == texts
