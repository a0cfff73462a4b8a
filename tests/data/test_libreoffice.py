"""The help of LibreOffice: what is embedded, and that its tokenizer loses nothing."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

from apo_bench.data import bpe, libreoffice
from apo_bench.data.examples import Examples, Splits
from apo_bench.errors import DataError
from apo_bench.tasks.translation import libreoffice_transformer_small

PAIRS = {"train": 32_765, "valid": 1_074, "test": 1_739}
DROPPED = 58
"""Training pairs with a side of more pieces than `libreoffice.LONGEST`."""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return libreoffice.load()


@pytest.mark.slow
def test_the_trivial_predictor_is_one_sentence_for_all() -> None:
    common = Counter(english for _, english in libreoffice.pairs("train")).most_common(30)
    references = [english for _, english in libreoffice.pairs("valid")]
    scores = [BLEU().corpus_score([text] * len(references), [references]).score for text, _ in common]
    assert libreoffice_transformer_small().trivial == pytest.approx(max(scores), abs=0.005)


def _rows(padded: torch.Tensor, lengths_N: torch.Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(padded.tolist(), lengths_N.tolist(), strict=True)]


def test_splits_have_the_sizes_they_are_said_to_have(splits: Splits) -> None:
    assert {split: len(libreoffice.pairs(split)) for split in PAIRS} == PAIRS
    sizes = (len(splits.train), len(splits.validation), len(splits.test))
    assert sizes == (PAIRS["train"] - DROPPED, PAIRS["valid"], PAIRS["test"])
    assert libreoffice.LIBREOFFICE_DE_EN.sizes == sizes
    assert bpe.vocabulary(libreoffice.TOKENIZER) == libreoffice.PIECES


def test_long_pairs_are_dropped_from_training_alone(splits: Splits) -> None:
    longest = libreoffice.LONGEST + 1  # with the end or the begin
    assert splits.train.lengths_NP is not None
    assert splits.validation.lengths_NP is not None
    assert int(splits.train.lengths_NP.max()) == longest
    assert int(splits.validation.lengths_NP.max()) > longest


def test_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intact = libreoffice.digest()
    folder = shutil.copytree(libreoffice._FOLDER, tmp_path / "copy")
    monkeypatch.setattr(libreoffice, "_FOLDER", folder)
    assert libreoffice.digest() == intact
    with (folder / "test.tsv.gz").open("ab") as file:
        file.write(b"0")
    with pytest.raises(DataError, match=r"test\.tsv\.gz is damaged"):
        libreoffice.pairs("valid")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_sentence_is_decoded_to_itself(split: str) -> None:
    for side in zip(*libreoffice.pairs(split), strict=True):
        pieces = bpe.encode(libreoffice.TOKENIZER, side)
        assert libreoffice.decode(pieces) == list(side)
        assert min(map(min, pieces)) > bpe.UNK


@pytest.mark.parametrize(
    "text", ["<s> and </s>", "<pad>", "a <unk> b", " two  spaces ", "", "한국어 \U0001f600", "a\nb"]
)
def test_any_text_survives(text: str) -> None:
    (pieces,) = bpe.encode(libreoffice.TOKENIZER, [text])
    assert not set(pieces) & {bpe.PAD, bpe.BOS, bpe.EOS, bpe.UNK}
    assert libreoffice.decode([pieces]) == [text]
    assert libreoffice.decode([[bpe.BOS, *pieces, bpe.EOS, bpe.PAD]]) == [text]


def _check(examples: Examples, pairs: list[tuple[str, str]]) -> None:
    """The pairs, the shortest first, with what begins and ends them."""
    assert examples.lengths_NP is not None
    source, written = (_rows(part, examples.lengths_NP[:, place]) for place, part in enumerate([*examples.inputs]))
    targets = _rows(examples.targets, examples.lengths_NP[:, 2])
    assert [row[:-1] for row in targets] == [row[1:] for row in written]
    assert {row[0] for row in written} == {bpe.BOS}
    assert {row[-1] for row in [*source, *targets]} == {bpe.EOS}
    for place, part in enumerate([*examples.inputs, examples.targets]):
        assert part.dtype is torch.int32
        behind = torch.arange(part.shape[1]) >= examples.lengths_NP[:, place, None]
        assert torch.equal(part == bpe.PAD, behind)
    got = zip(*(libreoffice.decode([row[:-1] for row in rows]) for rows in (source, targets)), strict=True)
    assert sorted(got) == sorted(pairs)
    total_N = examples.lengths_NP.sum(1) - examples.lengths_NP[:, 1]
    assert bool((total_N.diff() >= 0).all())


@pytest.mark.parametrize(("name", "split"), [("validation", "valid"), ("test", "test")])
def test_examples_are_the_pairs_with_begin_end_and_padding(splits: Splits, name: str, split: str) -> None:
    _check(getattr(splits, name), libreoffice.pairs(split))


def test_a_batch_is_cut_to_its_longest_sentence(splits: Splits) -> None:
    batch = splits.test.slice(0, 4)
    assert splits.test.lengths_NP is not None
    assert [part.shape[1] for part in (*batch.inputs, batch.targets)] == splits.test.lengths_NP[:4].amax(0).tolist()


def test_blank_sentences_are_no_padding() -> None:
    assert libreoffice.LIBREOFFICE_DE_EN.blank is not None
    batch = libreoffice.LIBREOFFICE_DE_EN.blank(3)
    for part in (*batch.inputs, batch.targets):
        assert part.shape == (3, 25)
        assert bool((part != bpe.PAD).all())


def test_the_same_sentences_make_the_same_tokenizer(tmp_path: Path) -> None:
    sentences = [side for pair in libreoffice.pairs("valid")[:150] for side in pair]
    one, other = (bpe.train_bpe(sentences, 400) for _ in range(2))
    assert one == other
    path = tmp_path / "tokenizer.json"
    path.write_text(one, encoding="utf-8")
    assert bpe.vocabulary(path) == 400
    assert bpe.decode(path, bpe.encode(path, sentences)) == sentences


@pytest.mark.slow
def test_the_embedded_tokenizer_is_what_the_training_split_makes() -> None:
    sentences = (side for pair in libreoffice.pairs("train") for side in pair)
    assert bpe.train_bpe(sentences, libreoffice.PIECES) == libreoffice.TOKENIZER.read_text(encoding="utf-8")


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 260 pieces, not 259"):
        bpe.train_bpe(["text"], 259)
