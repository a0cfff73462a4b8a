"""IWSLT14, German to English: talks of TED (Cettolo et al., 2014), split as by fairseq's ``prepare-iwslt14.sh`` [R].

The script, and the members and tags of the archive it reads, are recalled and not verified [R]. What is done here:

- Lines of the training files that are about a talk are dropped; its title and description are kept without their tags.
- Text is unescaped from HTML, lowercased, and runs of white space become one space.
- Pairs with an empty side, more than 175 words a side or more than 1.5 times as many words on one side as on the other
  are left out. This comes first, as in the script: every 23rd of the pairs that remain validates, so that the
  validation split is filtered as well. What validates does not depend on the tokenizer.
- Of the pairs that train, those with more than 175 pieces a side are left out of what `load` returns, which bounds the
  memory of padding; the validation split keeps its own.
- dev2010, TEDX.dev2012, tst2010, tst2011 and tst2012 are the test split, in this order and never filtered.

Differences from the script: no Moses tokenization, but byte-level BPE of 10,000 pieces on the text as it is, so that
words are what white space separates, and length and ratio filter other pairs than Moses' tokens do (the numbers of
pairs differ from the script's 160,239 and 7,283 [R]); typographic apostrophes of the test files stay. BLEU is therefore
that of sacreBLEU on detokenized, lowercased text, and not comparable with tokenized ``multi-bleu`` numbers, such as the
paper's may be.

The tokenizer is trained once on the pairs that train, when the data are first asked for or fetched, and lies beside the
archive under a name that has the archive's checksum, so that another archive gets another one.
"""

import functools
import hashlib
import html
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from apo_bench.data import bpe, lock
from apo_bench.data.bounded import TooLargeError, read_at_most, refuse_more
from apo_bench.data.download import download
from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.data.location import data_folder
from apo_bench.errors import DataError
from apo_bench.files import write_durably
from apo_bench.locks import locked

_NAME = "iwslt14-de-en"
URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
_MOST_BYTES = 2**27
"""That a file of the archive can have; the largest are some 20 MB [R]."""
_MOST_UNPACKED = 2**30
"""That all its files can have."""
PIECES = 10_000
LONGEST = 175
"""Words a side, and for training pieces a side."""
_RATIO = 1.5
_VALIDATES = 23
"""Of so many pairs, the last validates."""

_TRAIN = "train.tags.de-en.{}"
_TEST = (
    "IWSLT14.TED.dev2010.de-en.{}.xml",
    "IWSLT14.TEDX.dev2012.de-en.{}.xml",
    "IWSLT14.TED.tst2010.de-en.{}.xml",
    "IWSLT14.TED.tst2011.de-en.{}.xml",
    "IWSLT14.TED.tst2012.de-en.{}.xml",
)
_ABOUT = re.compile(r"\s*</?(?:url|keywords|talkid|speaker|reviewer|translator|doc)\b[^>]*>")
_KEPT = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg>", re.DOTALL)

Pairs = list[tuple[str, str]]
"""German and English of each pair."""


def archive() -> Path:
    """Where ``de-en.tgz`` belongs; ``de-en.tar`` where a browser has decompressed it, and only that is there."""
    belongs = data_folder() / _NAME / "de-en.tgz"
    decompressed = belongs.with_suffix(".tar")
    return decompressed if decompressed.exists() and not belongs.exists() else belongs


def pairs() -> dict[str, Pairs]:
    """Text of the splits ``train``, ``valid`` and ``test``, in the order of the files.

    Raises:
        DataError: The archive is missing or damaged, its checksum does not hold, or it is not what it should be.
    """
    _archive_digest()
    names = [name.format(side) for name in (_TRAIN, *_TEST) for side in ("de", "en")]
    texts = _members(names)
    training = [pair for pair in _aligned(texts, _TRAIN) if _fits(*pair)]
    return {
        "train": [pair for n, pair in enumerate(training, 1) if n % _VALIDATES],
        "valid": training[_VALIDATES - 1 :: _VALIDATES],
        "test": [pair for name in _TEST for pair in _aligned(texts, name)],
    }


def load() -> Splits:
    """Encode the splits: as in `bpe.translation_examples`, German in, English out, each in order of length.

    Raises:
        DataError: As `digest`.
    """
    path = tokenizer()
    text = pairs()
    return Splits(
        train=_examples(path, text["train"], LONGEST),
        validation=_examples(path, text["valid"]),
        test=_examples(path, text["test"]),
    )


def _examples(path: Path, text: Pairs, longest: int | None = None) -> Examples:
    german, english = (bpe.encode(path, side) for side in zip(*text, strict=True))
    kept = [n for n in range(len(german)) if longest is None or max(len(german[n]), len(english[n])) <= longest]
    return bpe.translation_examples([german[n] for n in kept], [english[n] for n in kept])


def decode(pieces: Sequence[Sequence[int]]) -> list[str]:
    """Text of each sequence of pieces; padding, begin and end are left out.

    Raises:
        DataError: As `digest`.
    """
    return bpe.decode(tokenizer(), pieces)


def digest() -> str:
    """Hold the archive and the tokenizer to their checksums and return a hash of both.

    Cheap, but for the first time, when the tokenizer is trained.

    Raises:
        DataError: The archive is missing or damaged, a checksum does not hold, the archive is not what it should be, or
            the tokenizer cannot be written.
    """
    return hashlib.sha256(f"{_archive_digest()}{lock.check(tokenizer())}".encode()).hexdigest()


def tokenizer() -> Path:
    """The tokenizer's file, checked, or trained and its checksum recorded if there is none yet.

    Raises:
        DataError: As `digest`.
    """
    path = archive().with_name(f"tokenizer-{PIECES}-{_archive_digest()[:12]}.json")
    if not path.exists():
        try:
            with locked(path.with_name(f".{path.name}.lock")):
                if not path.exists():  # another process may have trained it meanwhile
                    text = bpe.train_bpe((side for pair in pairs()["train"] for side in pair), PIECES)
                    write_durably(path, text.encode())
                    lock.record(path)
        except OSError as error:
            raise lock.not_written(path, error) from error
    try:
        lock.check(path)
    except DataError as error:
        raise DataError(f"{_NAME}: {error}; delete the tokenizer, and it is trained again at the next run") from error
    return path


def fetch() -> None:
    """Download the archive into the data folder, unless it is there, and train the tokenizer.

    Raises:
        DataError: The download fails, what came is no tar archive, or as `digest`.
    """
    download([URL], archive())
    if not tarfile.is_tarfile(archive()):
        archive().unlink()
        raise DataError(f"{URL} did not send a tar archive; try again later, or put it at {archive()}")
    digest()


def _archive_digest() -> str:
    if not archive().exists():
        if archive().with_suffix("").is_dir():
            raise DataError(
                f"{_NAME}: {archive()} is missing, and its folder de-en lies beside it: a browser has unpacked it; run "
                f"`tar -czf {archive()} -C {archive().parent} de-en`"
            )
        raise DataError(
            f"{_NAME}: {archive()} is missing; run `apo-bench data fetch {_NAME}`, or put {URL} there "
            "($APO_BENCH_DATA names another folder than the cache)"
        )
    return lock.check(archive())


def _how_to_fix() -> str:
    return f"delete it and its line in {data_folder() / lock.LOCK}, then run `apo-bench data fetch {_NAME}`"


def _members(names: Sequence[str]) -> dict[str, str]:
    """Text of files in the archive, in one pass: to go back in a compressed archive is to read it again."""
    wanted = {PurePosixPath("de-en") / name: name for name in names}
    texts = {}
    try:
        with tarfile.open(archive(), "r:*") as tar:
            size = 0
            for member in tar:
                size += member.size
                refuse_more(size, _MOST_UNPACKED, "the archive")  # before it is unpacked to come to the next member
                name = wanted.get(PurePosixPath(member.name))
                file = tar.extractfile(member) if name and member.isfile() else None
                if name and file:
                    texts[name] = read_at_most(file, _MOST_BYTES, name).decode("utf-8-sig")
    except (TooLargeError, tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{archive()} is damaged ({' '.join(str(error).split())}); {_how_to_fix()}") from error
    absent = [name for name in names if name not in texts]
    if absent:
        raise DataError(f"{archive()} has no de-en/{absent[0]}; {_how_to_fix()}")
    return texts


def _aligned(texts: dict[str, str], name: str) -> Pairs:
    read = _training_lines if name == _TRAIN else _segments
    german, english = (read(texts[name.format(side)]) for side in ("de", "en"))
    if len(german) != len(english):
        raise DataError(
            f"{archive()}: {name.format('de')} has {len(german)} sentences and {name.format('en')} has {len(english)}; "
            f"{_how_to_fix()}"
        )
    if not german:
        raise DataError(f"{archive()}: {name.format('de')} has no sentences; {_how_to_fix()}")
    return list(zip(german, english, strict=True))


def _training_lines(text: str) -> list[str]:
    # Not splitlines: it splits at U+2028 and its like too, which stand inside sentences and would shift one side.
    lines = text.removesuffix("\n").split("\n")
    return [_clean(_KEPT.sub(" ", line)) for line in lines if not _ABOUT.match(line)]


def _segments(text: str) -> list[str]:
    return [_clean(segment) for segment in _SEGMENT.findall(text)]


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).lower().split())


def _fits(german: str, english: str) -> bool:
    fewer, more = sorted((len(german.split()), len(english.split())))
    return fewer > 0 and more <= LONGEST and more <= _RATIO * fewer


IWSLT14_DE_EN = Dataset(
    name=_NAME,
    load=load,
    digest=digest,
    fetch=fetch,
    blank=functools.partial(bpe.blank_translation, length=28),
)
