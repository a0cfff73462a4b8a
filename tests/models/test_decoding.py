"""Beam search finds what it is to find, whoever else is in the batch; BLEU judges what it wrote."""

import itertools
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from apo_bench.data import bpe, libreoffice
from apo_bench.data.examples import Examples
from apo_bench.models.decoding import beam_search
from apo_bench.models.transformer import transformer
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.records.spec import Precision
from apo_bench.tasks.bleu import Bleu

BEGIN, END = 1, 2
PIECES = 4
Prefix = tuple[int, ...]


class _State:
    """What each row has read, and which sentence each source is."""

    def __init__(self, sources: Tensor) -> None:
        self.sources = sources
        self.read: list[Prefix] = []

    def keep(self, sentences: Tensor) -> None:
        self.sources = self.sources[sentences]

    def follow(self, rows: Tensor) -> None:
        self.read = [self.read[row] for row in rows.tolist()]


class _Table:
    """Log-probabilities by sentence and prefix, drawn once."""

    def __init__(self, end: float = 0.0) -> None:
        self.end = end
        self.table: dict[tuple[int, Prefix], Tensor] = {}

    def start(self, source_BS: Tensor) -> _State:
        return _State(source_BS)

    def step(self, pieces_R: Tensor, state: _State) -> Tensor:
        before = state.read or [()] * len(pieces_R)
        state.read = [(*prefix, piece) for prefix, piece in zip(before, pieces_R.tolist(), strict=True)]
        beams = len(pieces_R) // len(state.sources)
        return torch.stack(
            [self.log(int(state.sources[row // beams, 0]), prefix[1:]) for row, prefix in enumerate(state.read)]
        )

    def log(self, sentence: int, prefix: Prefix) -> Tensor:
        """Of each piece that may follow; the same whenever it is asked."""
        seed = sentence
        for piece in prefix:
            seed = seed * (PIECES + 1) + piece + 1
        source = torch.Generator().manual_seed(seed)
        logits = 2.0 * torch.randn(PIECES, generator=source, dtype=torch.float64)
        logits[END] += self.end
        return logits.log_softmax(0)

    def score(self, sentence: int, pieces: Prefix, alpha: float) -> float:
        whole = (*pieces, END)
        total = sum(float(self.log(sentence, whole[:t])[piece]) for t, piece in enumerate(whole))
        return float(total / len(whole) ** alpha)


def _search(model: Any, sentences: list[int], longest: list[int], **fields: Any) -> list[list[int]]:
    source = torch.tensor(sentences)[:, None]
    return beam_search(model, source, torch.tensor(longest), begin=BEGIN, end=END, **fields)


SENTENCES, LONGEST = list(range(101, 117)), [0, 1, 2, 3, 4, 5, 6, 7] * 2


def test_one_beam_is_greedy() -> None:
    model = _Table()
    expected = []
    for sentence, longest in zip(SENTENCES, LONGEST, strict=True):
        pieces: Prefix = ()
        while len(pieces) < longest and (piece := int(model.log(sentence, pieces).argmax())) != END:
            pieces = (*pieces, piece)
        expected.append(list(pieces))
    assert _search(model, SENTENCES, LONGEST, beam=1) == expected


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(alpha: float) -> None:
    model, longest = _Table(), 3
    others = [piece for piece in range(PIECES) if piece != END]
    every = [pieces for length in range(longest + 1) for pieces in itertools.product(others, repeat=length)]
    assert len(every) == 40
    expected = [list(max(every, key=lambda pieces: model.score(s, pieces, alpha))) for s in SENTENCES]  # type: ignore[arg-type] # torch types it loosely
    assert _search(model, SENTENCES, [longest] * len(SENTENCES), beam=41, alpha=alpha) == expected
    assert len({len(pieces) for pieces in expected}) > 1


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_it_ends_at_the_greatest_length(beam: int) -> None:
    found = _search(_Table(end=-50.0), SENTENCES, LONGEST, beam=beam)
    assert [len(pieces) for pieces in found] == LONGEST


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_other_sentences_of_the_batch_do_not_matter(beam: int) -> None:
    model = _Table()
    alone = [_search(model, [s], [n], beam=beam)[0] for s, n in zip(SENTENCES, LONGEST, strict=True)]
    assert _search(model, SENTENCES, LONGEST, beam=beam) == alone
    assert _search(model, SENTENCES[::-1], LONGEST[::-1], beam=beam) == alone[::-1]


def test_a_transformer_translates_a_sentence_as_in_a_padded_batch() -> None:
    model = transformer(11, layers=1, width=8, heads=2, hidden=8).double().eval()
    source = torch.randint(4, 11, (4, 6))
    lengths = torch.tensor([6, 4, 2, 1])
    padded = source.masked_fill(torch.arange(6) >= lengths[:, None], bpe.PAD)
    together = beam_search(model, padded, lengths + 3, begin=BEGIN, end=END, beam=3)
    alone = [
        beam_search(model, source[n : n + 1, :length], lengths[n : n + 1] + 3, begin=BEGIN, end=END, beam=3)[0]
        for n, length in enumerate(lengths.tolist())
    ]
    assert together == alone


def test_a_search_without_beams_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one beam, not 0"):
        _search(_Table(), [1], [1], beam=0)


class _Copier:
    """Writes its source, piece by piece and its end included."""

    def start(self, source_BS: Tensor) -> _State:
        return _State(source_BS)

    def step(self, pieces_R: Tensor, state: _State) -> Tensor:
        before = state.read or [()] * len(pieces_R)
        state.read = [(*prefix, piece) for prefix, piece in zip(before, pieces_R.tolist(), strict=True)]
        place = min(len(state.read[0]), state.sources.shape[1]) - 1
        next_R = state.sources[:, place].repeat_interleave(len(pieces_R) // len(state.sources))
        return 20.0 * torch.nn.functional.one_hot(next_R.long(), libreoffice.PIECES).float()


def _copied() -> tuple[Examples, list[str]]:
    """Sentences to be copied, not in order of length and more than are translated at a time."""
    texts = [english for _, english in libreoffice.pairs("valid")[:70]]
    rows = bpe.encode(libreoffice.TOKENIZER, texts)
    sorted_ = bpe.translation_examples(rows, rows)
    back = torch.randperm(len(rows))
    assert sorted_.lengths_NP is not None
    inputs = tuple(part[back] for part in sorted_.inputs)
    examples = Examples(inputs, sorted_.targets[back], sorted_.lengths_NP[back])
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    return examples, [texts[order[n]] for n in back.tolist()]


def _bleu(**fields: Any) -> Bleu:
    return Bleu(libreoffice.decode, begin=bpe.BOS, end=bpe.EOS, **fields)


def test_translations_are_in_the_order_of_the_examples_and_references_score_100() -> None:
    examples, texts = _copied()
    problem: Any = SimpleNamespace(model=_Copier(), precision=PrecisionPolicy(Precision.FP32, torch.device("cpu")))
    assert _bleu(beam=2).translate(problem, examples) == texts
    assert _bleu(beam=2).score(problem, examples) == pytest.approx(100.0)


def test_the_signature_says_how_it_was_decoded_and_by_which_version() -> None:
    parts = _bleu(beam=3, text="lowercased").signature.split("|")
    assert f"version:{version('sacrebleu')}" in parts
    assert {"nrefs:1", "tok:13a", "beam:3", "lenpen:1", "maxlen:1.5*source+20", "lowercased"} <= set(parts)


def test_examples_without_lengths_are_refused() -> None:
    examples, _ = _copied()
    with pytest.raises(ValueError, match="make the examples with lengths_NP"):
        _bleu().translate(SimpleNamespace(), Examples(examples.inputs, examples.targets))  # type: ignore[arg-type] # no model is asked
