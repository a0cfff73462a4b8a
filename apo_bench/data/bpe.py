"""Byte-pair encoding of sentences (Sennrich et al., 2016), on bytes: every text is encoded, and decoded to itself.

Training, encoding and decoding are those of the library `tokenizers`. A sentence is encoded as if a space stood before
it, so that a word has the same pieces at its beginning as elsewhere.
"""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data.examples import Batch, Examples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, UNK = range(4)
"""Pieces that are no text: padding, begin and end of a sentence, and the unknown piece, which bytes never need."""
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def train_bpe(sentences: Iterable[str], pieces: int) -> str:
    """Learn a tokenizer and return it as JSON; the same sentences give the same text.

    Args:
        sentences: Training text of all languages, which share the pieces.
        pieces: Size of the vocabulary: special pieces, 256 bytes and merges.

    Raises:
        ValueError: Fewer pieces than special ones and bytes.
    """
    smallest = len(_SPECIAL) + 256
    if pieces < smallest:
        raise ValueError(f"a vocabulary has at least {smallest} pieces, not {pieces}")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator((f" {sentence}" for sentence in sentences), trainer)
    return str(tokenizer.to_str(pretty=True)) + "\n"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep `tokenizers` from starting threads, after which the library warns in every process forked later."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # a sentence that speaks of "<s>" means these three letters
    return tokenizer


def encode(path: Path, sentences: Sequence[str]) -> list[list[int]]:
    """Pieces of each sentence by the tokenizer in the file ``path``, without begin and end."""
    with _one_thread():
        encodings = _read(path).encode_batch_fast([f" {s}" for s in sentences], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def decode(path: Path, pieces: Sequence[Sequence[int]]) -> list[str]:
    """Undo `encode`; special pieces are left out, and bytes that are no UTF-8 become U+FFFD."""
    with _one_thread():
        texts: list[str] = _read(path).decode_batch([list(row) for row in pieces], skip_special_tokens=True)
    return [text.removeprefix(" ") for text in texts]


def vocabulary(path: Path) -> int:
    """Number of pieces, the special ones included."""
    return int(_read(path).get_vocab_size())


def translation_examples(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Examples:
    """Pairs of sentences as padded int32 tensors, the shortest pairs first.

    Inputs are the source ``(n, S)``, which ends with `EOS`, and what the decoder reads ``(n, T)``, which begins with
    `BOS`; targets ``(n, T)`` are the same one place to the left and end with `EOS`. In order of length, so that a slice
    holds examples of about one length and is cut to little more than what it holds.
    """
    order = sorted(range(len(sources)), key=lambda n: len(sources[n]) + len(targets[n]))
    read = [sources[n] for n in order]
    written = [targets[n] for n in order]
    lengths_NP = torch.tensor([[len(s) + 1, len(t) + 1, len(t) + 1] for s, t in zip(read, written, strict=True)])
    return Examples(
        inputs=(_padded([[*s, EOS] for s in read]), _padded([[BOS, *t] for t in written])),
        targets=_padded([[*t, EOS] for t in written]),
        lengths_NP=lengths_NP,
    )


def blank_translation(count: int, length: int) -> Batch:
    """Sentences of ``length`` unknown pieces: padding, which is 0, would be no work for the objective."""
    rows = torch.full((count, length), UNK, dtype=torch.int32)
    return Batch((rows, rows), rows)


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    out: NDArray[np.int32] = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int32)
    for row, pieces in zip(out, rows, strict=True):
        row[: len(pieces)] = pieces
    return torch.from_numpy(out)
