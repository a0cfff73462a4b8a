"""BLEU of what a model translates by beam search, as sacreBLEU computes it (Post, 2018)."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from apo_bench.data.examples import Examples
from apo_bench.data.transfer import send
from apo_bench.models.decoding import beam_search
from apo_bench.records.facts import Axis, Direction

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

    from apo_bench.problem.problem import Problem


class Bleu:
    """BLEU in percent of whole sentences, translated by beam search under the run's precision.

    Examples have sources as first input and references as targets. References are the text of the targets, so that the
    tokenizer must decode what it encoded to the same text.

    Args:
        decode: Text of each sequence of pieces.
        begin: Piece that the decoder reads first.
        end: Piece that ends a sequence.
        beam: Hypotheses followed at a time.
        alpha: Exponent of the length in a hypothesis's score.
        text: What was done to the references beforehand, if anything: it belongs to the signature.
    """

    name = "BLEU"
    axis = Axis.LINEAR
    direction = Direction.MAXIMIZE

    def __init__(
        self,
        decode: Callable[[Sequence[Sequence[int]]], list[str]],
        *,
        begin: int,
        end: int,
        beam: int = 5,
        alpha: float = 1.0,
        text: str = "",
    ) -> None:
        self.decode = decode
        self.begin = begin
        self.end = end
        self.beam = beam
        self.alpha = alpha
        self.text = text

    @property
    def signature(self) -> str:
        """SacreBLEU's signature, then how hypotheses were found."""
        decoding = f"beam:{self.beam}|lenpen:{self.alpha:g}|maxlen:{_MAXIMUM}"
        return "|".join(part for part in (_sacrebleu_signature(), decoding, self.text) if part)

    def score(self, problem: "Problem", examples: Examples) -> float:
        """BLEU of the translations of ``examples``, in [0, 100]."""
        hypotheses = self.translate(problem, examples)
        references = self.decode([row[: row.index(self.end)] for row in examples.targets.tolist()])
        return float(_sacrebleu().corpus_score(hypotheses, [references]).score)

    @torch.no_grad()
    def translate(self, problem: "Problem", examples: Examples) -> list[str]:
        """Translations in the order of ``examples``.

        Raises:
            ValueError: The examples do not say how long they are.
        """
        if examples.lengths_NP is None:
            raise ValueError("translation needs the lengths of its sources: make the examples with lengths_NP")
        lengths_N = examples.lengths_NP[:, 0]
        found: list[list[int]] = [[] for _ in range(len(examples))]
        for index in torch.split(lengths_N.argsort(stable=True), _BATCH):
            (source_BS, *_), _ = examples.take(index)
            longest_B = send(lengths_N[index] * 3 // 2 + _MORE, source_BS.device)
            with problem.precision.forward():
                rows = beam_search(
                    problem.model,  # type: ignore[arg-type] # a translation task's model is a Decoder
                    source_BS,
                    longest_B,
                    begin=self.begin,
                    end=self.end,
                    beam=self.beam,
                    alpha=self.alpha,
                )
            for place, row in zip(index.tolist(), rows, strict=True):
                found[place] = row
        return self.decode(found)


_BATCH = 64
"""Sentences that are translated together."""
_MORE = 20
_MAXIMUM = f"1.5*source+{_MORE}"
"""Pieces of a translation at most, with the source's pieces and its end."""


def _sacrebleu() -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU  # 0.2 s

    return BLEU()


@functools.cache
def _sacrebleu_signature() -> str:
    bleu = _sacrebleu()
    bleu.corpus_score(["one"], [["one"]])  # the number of references is known after a score only
    return str(bleu.get_signature())
