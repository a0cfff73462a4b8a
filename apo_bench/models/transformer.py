"""The encoder-decoder Transformer (Vaswani et al., 2017) for translation.

Projections of queries, keys, values and outputs are `nn.Linear` of their own, so that optimizers that look for layers
find them. One embedding serves both languages and, transposed, as the output projection. That product is no `nn.Linear`
but `F.linear` on the embedding's weight: as a layer it would have a Kronecker factor of vocabulary × vocabulary, and as
an embedding its gradient is no matrix product of activations. Optimizers treat it as a parameter without a layer.

Shape suffixes: B sentences, R rows of them (several hypotheses a sentence, in decoding), S source and T target
positions, D width, H heads, V pieces. Sources are padded at their end, with `PAD`; so may targets be, and what stands
at their padding is of no meaning and of no influence on the rest.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PAD = 0
"""Piece that is no text (`apo_bench.data.bpe`)."""


class LayerNorm(nn.LayerNorm):
    """Normalizes in the format of its parameters, which stay in float32 where others are stored in 16 bit."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension; the result has the format of ``x``."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


@dataclasses.dataclass
class Memory:
    """Keys and values ``(rows, heads, positions, head's width)`` of one attention, kept between steps of decoding."""

    keys: Tensor
    values: Tensor

    def select(self, index: Tensor) -> "Memory":
        """The rows at ``index``."""
        return Memory(self.keys.index_select(0, index), self.values.index_select(0, index))


class Attention(nn.Module):
    """Scaled dot-product attention with several heads, whose width is that of the model divided among them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def remember(self, x_BSD: Tensor) -> Memory:
        """Keys and values of the positions to attend to."""
        return Memory(self._split(self.key(x_BSD)), self._split(self.value(x_BSD)))

    def forward(
        self, x_BTD: Tensor, memory: Memory, seen_B11S: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """Attend from ``x_BTD`` to positions of ``memory`` that are ``seen``, or with ``causal`` to earlier ones."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x_BTD)), memory.keys, memory.values, attn_mask=seen_B11S, is_causal=causal
        )
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x_BTD: Tensor) -> Tensor:
        rows, positions, width = x_BTD.shape
        return x_BTD.view(rows, positions, self.heads, width // self.heads).transpose(1, 2)


class _Layer(nn.Module):
    """What layers of encoder and decoder share: residual branches with a normalization before or after each."""

    def __init__(self, width: int, hidden: int, dropout: float, branches: int, *, prenorm: bool) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(branches))
        self.hidden = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def _before(self, branch: int, x_BTD: Tensor) -> Tensor:
        """What the branch reads."""
        normalized: Tensor = self.norms[branch](x_BTD) if self.prenorm else x_BTD
        return normalized

    def _after(self, branch: int, x_BTD: Tensor, change_BTD: Tensor) -> Tensor:
        """Add what the branch says."""
        added: Tensor = x_BTD + self.dropout(change_BTD)
        return added if self.prenorm else self.norms[branch](added)

    def _feed_forward(self, branch: int, x_BTD: Tensor) -> Tensor:
        read = self._before(branch, x_BTD)
        return self._after(branch, x_BTD, self.narrow(F.relu(self.hidden(read))))


class EncoderLayer(_Layer):
    """Self-attention, then two linear layers with a ReLU between."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, prenorm: bool) -> None:
        super().__init__(width, hidden, dropout, 2, prenorm=prenorm)
        self.attention = Attention(width, heads)

    def forward(self, x_BSD: Tensor, seen_B11S: Tensor | None = None) -> Tensor:
        """Transform the positions of a source."""
        read = self._before(0, x_BSD)
        x_BSD = self._after(0, x_BSD, self.attention(read, self.attention.remember(read), seen_B11S))
        return self._feed_forward(1, x_BSD)


class DecoderLayer(_Layer):
    """Causal self-attention, attention to the encoded source, then two linear layers with a ReLU between."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, prenorm: bool) -> None:
        super().__init__(width, hidden, dropout, 3, prenorm=prenorm)
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads)

    def forward(self, x_BTD: Tensor, source: Memory, seen_B11S: Tensor | None = None) -> Tensor:
        """Transform all positions of a target at once."""
        read = self._before(0, x_BTD)
        x_BTD = self._after(0, x_BTD, self.attention(read, self.attention.remember(read), causal=True))
        return self._rest(x_BTD, source, seen_B11S)

    def step(
        self, x_R1D: Tensor, own: Memory | None, source: Memory, seen_B11S: Tensor | None
    ) -> tuple[Tensor, Memory]:
        """Transform one further position of each row, and return the memory with it.

        The rows of a sentence adjoin. They are queries of one attention to its source, which is not repeated.
        """
        read = self._before(0, x_R1D)
        new = self.attention.remember(read)
        if own is not None:
            new = Memory(torch.cat([own.keys, new.keys], dim=2), torch.cat([own.values, new.values], dim=2))
        x_R1D = self._after(0, x_R1D, self.attention(read, new))
        x_BKD = x_R1D.view(len(source.keys), -1, x_R1D.shape[2])
        return self._rest(x_BKD, source, seen_B11S).view_as(x_R1D), new

    def _rest(self, x_BTD: Tensor, source: Memory, seen_B11S: Tensor | None) -> Tensor:
        x_BTD = self._after(1, x_BTD, self.cross(self._before(1, x_BTD), source, seen_B11S))
        return self._feed_forward(2, x_BTD)


@dataclasses.dataclass
class DecoderState:
    """Where decoding stands: made by `Transformer.start`, advanced by `Transformer.step`.

    Attributes:
        sources: For each layer, keys and values of the encoded sources.
        seen_B11S: Which source positions are no padding.
        own: For each layer, keys and values of the target so far; empty before the first step.
        position: Number of steps taken.
    """

    sources: list[Memory]
    seen_B11S: Tensor
    own: list[Memory]
    position: int = 0

    def keep(self, sentences: Tensor) -> None:
        """Keep the sentences at these places, whose rows must be kept with `follow`."""
        self.sources = [memory.select(sentences) for memory in self.sources]
        self.seen_B11S = self.seen_B11S.index_select(0, sentences)

    def follow(self, rows: Tensor) -> None:
        """Continue from these rows; the rows of a sentence adjoin, equally many for each."""
        self.own = [memory.select(rows) for memory in self.own]


class Transformer(nn.Module):
    """An encoder and a decoder of equally many layers; see `transformer`."""

    def __init__(
        self, vocabulary: int, layers: int, width: int, heads: int, hidden: int, dropout: float, *, prenorm: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(width, heads, hidden, dropout, prenorm=prenorm) for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(width, heads, hidden, dropout, prenorm=prenorm) for _ in range(layers)
        )
        # Residual branches that are normalized before they are read leave their sum unnormalized.
        self.encoder_norm = LayerNorm(width) if prenorm else nn.Identity()
        self.decoder_norm = LayerNorm(width) if prenorm else nn.Identity()
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, source_BS: Tensor, decoder_input_BT: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` of the piece that follows each position of the decoder's input."""
        memory_BSD, seen_B11S = self.encode(source_BS)
        x_BTD = self._embed(decoder_input_BT)
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)  # noqa: S101 - torch's containers forget the type
            x_BTD = layer(x_BTD, layer.cross.remember(memory_BSD), seen_B11S)
        return self._logits(x_BTD)

    def encode(self, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded sources ``(B, S, D)``, and which of their positions are no padding ``(B, 1, 1, S)``."""
        seen_B11S = (source_BS != PAD)[:, None, None, :]
        x_BSD = self._embed(source_BS)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, seen_B11S)
        encoded: Tensor = self.encoder_norm(x_BSD)
        return encoded, seen_B11S

    def start(self, source_BS: Tensor) -> DecoderState:
        """Encode sources for decoding step by step."""
        memory_BSD, seen_B11S = self.encode(source_BS)
        return DecoderState([layer.cross.remember(memory_BSD) for layer in self._decoder_layers()], seen_B11S, own=[])

    def step(self, pieces_R: Tensor, state: DecoderState) -> Tensor:
        """Read one piece for each row, and return the logits ``(R, V)`` of the next.

        Args:
            pieces_R: The latest piece of each row; R is a multiple of the sentences, whose rows adjoin.
            state: Advanced in place.
        """
        x_R1D = self._embed(pieces_R.unsqueeze(1), state.position)
        earlier: Sequence[Memory | None] = state.own or [None] * len(self.decoder)
        state.own = []
        for layer, own, source in zip(self._decoder_layers(), earlier, state.sources, strict=True):
            x_R1D, new = layer.step(x_R1D, own, source, state.seen_B11S)
            state.own.append(new)
        state.position += 1
        return self._logits(x_R1D).squeeze(1)

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def _embed(self, pieces_BT: Tensor, start: int = 0) -> Tensor:
        x_BTD = self.embedding(pieces_BT) * math.sqrt(self.embedding.embedding_dim)
        positions_TD = sinusoids(start, pieces_BT.shape[1], self.embedding.embedding_dim, x_BTD.device)
        dropped: Tensor = self.dropout(x_BTD + positions_TD.to(x_BTD.dtype))
        return dropped

    def _logits(self, x_BTD: Tensor) -> Tensor:
        return F.linear(self.decoder_norm(x_BTD), self.embedding.weight)


def sinusoids(start: int, count: int, width: int, device: torch.device) -> Tensor:
    """Codes ``(count, width)`` of positions from ``start``: sines, then cosines, of geometric wavelengths.

    As in section 3.5. In float64: a network for checks against theory is as exact as its other parts.
    """
    half = width // 2
    rates_F = torch.exp(torch.arange(half, device=device, dtype=torch.float64) * (-math.log(10_000.0) / half))
    angles_TF = torch.arange(start, start + count, device=device, dtype=torch.float64).outer(rates_F)
    return torch.cat([angles_TF.sin(), angles_TF.cos()], dim=1)


def transformer(
    vocabulary: int,
    layers: int,
    width: int,
    heads: int,
    hidden: int,
    dropout: float = 0.1,
    norm: str = "pre",
) -> Transformer:
    """An encoder-decoder Transformer with sinusoidal positions and one embedding for sources, targets and outputs.

    Called with sources ``(B, S)`` and decoder inputs ``(B, T)``, it returns logits ``(B, T, vocabulary)``. Dropout acts
    on the embedded positions and on every residual branch (section 5.4), and not inside attention.

    Args:
        vocabulary: Pieces, with padding as piece 0.
        layers: Of the encoder, and as many of the decoder.
        width: Of the residual stream; even, and a multiple of ``heads``.
        heads: Of every attention.
        hidden: Width between the two linear layers of a position.
        dropout: Probability.
        norm: ``"pre"``: branches read what is normalized, which trains without warm-up; ``"post"``: their sum is
            normalized, as in the original.

    Raises:
        ValueError: The heads do not divide the width, the width is odd, or ``norm`` is neither.
    """
    if norm not in {"pre", "post"}:
        raise ValueError(f"norm is 'pre' or 'post', not {norm!r}")
    if width % 2:
        raise ValueError(f"half of a position's code are sines, half cosines: the width is even, not {width}")
    return Transformer(vocabulary, layers, width, heads, hidden, dropout, prenorm=norm == "pre")
