"""LibreOffice help, German to English, embedded in the package: real translation on a machine without a network.

32,765 pairs train, 1,074 validate and 1,739 test: paragraphs of LibreOffice 7.4's help that share an id, 3 to 40 words
a side, split by help page. A validation or test pair with a side that stands verbatim in the training split was dropped
when the data were made. Not IWSLT14: a fifth of its sentences, of one domain.
"""

import functools
import gzip
from collections.abc import Sequence
from pathlib import Path

from apo_bench.data import bpe
from apo_bench.data.checksums import verified_digest
from apo_bench.data.examples import Dataset, Examples, Splits

_FOLDER = Path(__file__).parent / "embedded" / "libreoffice-help-de-en"
TOKENIZER = _FOLDER / "tokenizer.json"
"""What `bpe.train_bpe` makes of the training split, German and English together."""
PIECES = 4_000
LONGEST = 64
"""Pieces a side; the 58 training pairs with a longer one are left out, validation and test pairs are never."""
_TRAIN, _VALIDATION, _TEST = 32_707, 1_074, 1_739


def pairs(split: str) -> list[tuple[str, str]]:
    """German and English of the split ``train``, ``valid`` or ``test``, in the order of the file.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    digest()
    lines = gzip.decompress((_FOLDER / f"{split}.tsv.gz").read_bytes()).decode().split("\n")
    rows = [line.split("\t") for line in lines if line]
    return [(german, english) for german, english in rows]


def load(first: tuple[int | None, int | None, int | None] = (None, None, None)) -> Splits:
    """Encode the splits: as in `bpe.translation_examples`, German in, English out, each in order of length.

    Args:
        first: How many pairs of each split are read, the first ones; `None` for all.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    train, validation, test = first
    return Splits(
        train=_examples("train", train, LONGEST),
        validation=_examples("valid", validation),
        test=_examples("test", test),
    )


def _examples(split: str, first: int | None, longest: int | None = None) -> Examples:
    german, english = (bpe.encode(TOKENIZER, side) for side in zip(*pairs(split)[:first], strict=True))
    kept = [n for n in range(len(german)) if longest is None or max(len(german[n]), len(english[n])) <= longest]
    return bpe.translation_examples([german[n] for n in kept], [english[n] for n in kept])


def decode(pieces: Sequence[Sequence[int]]) -> list[str]:
    """Text of each sequence of pieces; padding, begin and end are left out."""
    return bpe.decode(TOKENIZER, pieces)


def digest() -> str:
    """Verify the files and return a hash of all of them.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    return verified_digest(_FOLDER)


LIBREOFFICE_DE_EN = Dataset(
    name="libreoffice-de-en",
    load=load,
    digest=digest,
    sizes=(_TRAIN, _VALIDATION, _TEST),
    blank=functools.partial(bpe.blank_translation, length=25),
)

_FIRST = (2_000, 32, 32)
LIBREOFFICE_DE_EN_2K = Dataset(
    name="libreoffice-de-en-2k",
    load=functools.partial(load, _FIRST),
    digest=digest,
    sizes=_FIRST,
    blank=functools.partial(bpe.blank_translation, length=25),
)
"""Its first pairs: enough to see that training and decoding work, and for no statement about translation."""
