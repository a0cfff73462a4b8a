"""Beam search: the likeliest sequences that a decoder writes, for many sentences at once."""

from typing import Any, Protocol

import torch
from torch import Tensor


class State(Protocol):
    """Where a decoder stands; as `apo_bench.models.transformer.DecoderState`."""

    def keep(self, sentences: Tensor) -> None:
        """Keep the sentences at these places."""
        ...

    def follow(self, rows: Tensor) -> None:
        """Continue from these rows, of which the decoder has several a sentence."""
        ...


class Decoder(Protocol):
    """A network that writes step by step; as `apo_bench.models.transformer.Transformer`."""

    def start(self, source_BS: Tensor) -> Any:
        """State before the first step."""
        ...

    def step(self, pieces_R: Tensor, state: Any) -> Tensor:
        """Read a piece a row and return the logits ``(R, V)`` of the next."""
        ...


def beam_search(
    model: Decoder,
    source_BS: Tensor,
    longest_B: Tensor,
    *,
    begin: int,
    end: int,
    beam: int = 5,
    alpha: float = 1.0,
) -> list[list[int]]:
    """Search for the sequence y with the largest log p(y | source) / |y|^α, where |y| counts the end.

    As in fairseq (Ott et al., 2019): of the 2·beam likeliest continuations, those that end and are among the first
    ``beam`` are hypotheses, and the first ``beam`` that do not end go on. A sentence is done when as many hypotheses as
    beams have ended, or at its greatest length, where only the end can follow. With one beam this is greedy decoding.
    Logarithms are taken in float32 or wider. A sentence of which no hypothesis has a finite score is empty.

    Args:
        model: In evaluation mode; called under the caller's precision.
        source_BS: Sources, on the model's device.
        longest_B: Greatest number of pieces for each sentence, the end not counted, on that device.
        begin: Piece that the decoder reads first.
        end: Piece that ends a sequence.
        beam: Hypotheses that are followed at a time.
        alpha: Exponent of the length: 0 prefers short sequences, 1 takes the mean over pieces.

    Returns:
        For each sentence its pieces, without begin and end.

    Raises:
        ValueError: No beam.
    """
    if beam < 1:
        raise ValueError(f"a search follows at least one beam, not {beam}")
    device, sentences = source_BS.device, len(source_BS)
    steps = int(longest_B.max()) + 1
    state = model.start(source_BS)
    best_B = torch.full((sentences,), -torch.inf, device=device)
    best_BT = torch.full((sentences, steps), end, device=device)
    # The rest is about the sentences that are not done; `place_A` says which they are.
    place_A = torch.arange(sentences, device=device)
    left_A = longest_B.clone()
    ended_A = torch.zeros_like(place_A)
    score_AK = torch.full((sentences, beam), -torch.inf, device=device)
    score_AK[:, 0] = 0.0  # all beams begin alike: without this the first step would find `beam` times the same
    written_AKT = torch.full((sentences, beam, steps), end, device=device)
    latest_AK = torch.full((sentences, beam), begin, device=device)
    for step in range(steps):
        logits_RV = model.step(latest_AK.flatten(), state)
        wide = torch.promote_types(logits_RV.dtype, torch.float32)
        log_AKV = logits_RV.to(wide).log_softmax(dim=1).view(len(place_A), beam, -1)
        pieces = log_AKV.shape[2]
        last_A = left_A <= step
        stop_AKV = last_A[:, None, None] & (torch.arange(pieces, device=device) != end)
        total_AKV = (log_AKV + score_AK.unsqueeze(2)).masked_fill(stop_AKV, -torch.inf)
        found_AC, which_AC = total_AKV.flatten(1).topk(min(2 * beam, beam * pieces), dim=1)
        beam_AC, piece_AC = which_AC // pieces, which_AC % pieces
        ends_AC = piece_AC == end

        ending_AK = ends_AC[:, :beam] & found_AC[:, :beam].isfinite()
        judged_AK = (found_AC[:, :beam] / (step + 1) ** alpha).masked_fill(~ending_AK, -torch.inf)
        judged_A, first_A = judged_AK.max(dim=1)
        better_A = judged_A > best_B[place_A]
        ended = place_A[better_A]
        best_B[ended] = judged_A[better_A].to(best_B.dtype)
        from_A = beam_AC.gather(1, first_A.unsqueeze(1)).squeeze(1)[better_A]
        best_BT[ended] = written_AKT[better_A, from_A]
        best_BT[ended, step] = end
        ended_A += ending_AK.sum(dim=1)

        going_A = ((ended_A < beam) & ~last_A).nonzero().squeeze(1)
        if len(going_A) == 0:
            break
        # Those that do not end, likeliest first: at most one continuation of each beam ends, so that enough are left.
        on_AK = ends_AC.to(torch.int8).argsort(dim=1, stable=True)[:, :beam].index_select(0, going_A)
        rows_AK = beam_AC.index_select(0, going_A).gather(1, on_AK)
        latest_AK = piece_AC.index_select(0, going_A).gather(1, on_AK)
        score_AK = found_AC.index_select(0, going_A).gather(1, on_AK)
        written_AKT = written_AKT[going_A.unsqueeze(1), rows_AK]
        written_AKT[:, :, step] = latest_AK
        state.follow((going_A.unsqueeze(1) * beam + rows_AK).flatten())
        if len(going_A) < len(place_A):
            state.keep(going_A)
            place_A, left_A, ended_A = (part.index_select(0, going_A) for part in (place_A, left_A, ended_A))
    return [row[: row.index(end)] if end in row else row for row in best_BT.tolist()]
