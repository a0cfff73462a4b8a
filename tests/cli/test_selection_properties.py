"""Whatever text an option is given, the command line reads it or says in one line why it does not, and at once."""

import contextlib
import string
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apo_bench.cli.main import _parser, main
from apo_bench.cli.selection import (
    LARGEST_SEED,
    MOST_SEEDS,
    Selection,
    known,
    parse_scalar,
    parse_scale,
    parse_seeds,
    words,
)
from apo_bench.errors import UsageError
from apo_bench.plugins.optimizer import unfit
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.spec import Precision, Scale
from apo_bench.suites import SUITES

SECONDS = 1.0
"""Of CPU time, whatever else the machine does."""
LIMITS = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

OPTIONS = ("--tasks", "--optimizers", "--precisions", "--set", "--scale", "--epochs", "--seeds", "--device", "--suite")
NAMES = [*optimizers().names(), *tasks().names(), *map(str, Precision), *map(str, Scale), *SUITES]

anything = st.text(st.characters(), max_size=300)
"""Also what is no text: surrogates, controls, marks of direction."""
pieces = st.sampled_from(
    [*NAMES, *"0123456789", *",-.=_ ~\n\t", "lr", "1e309", "inf", "nan", "all", "none", "0-4", "9" * 30]
)
likely = st.lists(pieces, max_size=12).map("".join)
"""What looks like it might be one."""
texts = anything | likely
integers = st.integers(min_value=0, max_value=10**25)
parts = integers.map(str) | st.tuples(integers, integers).map(lambda ends: f"{ends[0]}-{ends[1]}")


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def _select(arguments: list[str]) -> str | None:
    """Read a command line as ``run`` does; the line that it says where it cannot."""
    try:
        options = _parser().parse_args(arguments)
        Selection.of(options).at(parse_scale(options.scale or "smoke"))
    except UsageError as error:
        return str(error)
    return None


@LIMITS
@given(option=st.sampled_from(OPTIONS), text=texts)
@example("--seeds", "0-9999999999")
@example("--seeds", "9" * 100_000)
@example("--tasks", "," * 100_000)
@example("--optimizers", "a," * 50_000)
@example("--set", "sgdm.lr=" + "9" * 100_000)
@example("--epochs", "1" * 100_000)
def test_an_option_is_read_or_refused(option: str, text: str) -> None:
    suite = [] if option == "--suite" else ["--suite", "classification"]
    with at_once():
        line = _select(["run", *suite, f"{option}={text}"])
    if line is not None:
        assert 0 < len(line) < 1000
        assert "\n" not in line


@settings(LIMITS, max_examples=20)
@given(words_given=st.lists(texts, max_size=4))
def test_a_command_line_of_anything_ends_with_a_status(words_given: list[str]) -> None:
    """Nothing that is made up here names a store; reading commands make none."""
    with at_once():
        try:
            status = main(["list", *(word for word in words_given if word not in {"--long", *tasks().names()})])
        except SystemExit as end:  # of argparse: usage, or help
            status = end.code if isinstance(end.code, int) else 2
    assert status in {0, 2}


@LIMITS
@given(text=texts | st.lists(parts, min_size=1, max_size=5).map(",".join))
def test_seeds_are_read_or_refused(text: str) -> None:
    with at_once():
        try:
            seeds = parse_seeds(text)
        except UsageError as error:
            assert str(error).startswith("--seeds ")  # noqa: PT017 - either is right
            return
    assert 0 < len(seeds) == len(set(seeds)) <= MOST_SEEDS
    assert all(0 <= seed <= LARGEST_SEED for seed in seeds)


@LIMITS
@given(first=st.integers(0, LARGEST_SEED), more=st.integers(0, 3 * MOST_SEEDS))
def test_a_range_of_seeds_has_its_ends_or_is_refused(first: int, more: int) -> None:
    last = first + more
    if more < MOST_SEEDS and last <= LARGEST_SEED:
        assert parse_seeds(f"{first}-{last}") == tuple(range(first, last + 1))
    else:
        with pytest.raises(UsageError, match=r"^--seeds must be at most "):
            parse_seeds(f"{first}-{last}")


@LIMITS
@given(text=texts)
def test_a_value_is_a_scalar_that_a_record_can_hold_or_says_why_not(text: str) -> None:
    with at_once():
        value = parse_scalar(text)
        fault = unfit(value)
    assert isinstance(value, bool | int | float | str | None)
    if fault is not None:
        assert fault[0]
        assert fault[1].startswith("use ")


@LIMITS
@given(
    value=st.booleans()
    | st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
def test_a_value_that_is_printed_is_read_again(value: float | None) -> None:
    read = parse_scalar(str(value))
    assert read == value
    assert type(read) is type(value)
    assert unfit(read) is None


@LIMITS
@given(names=st.lists(st.text(string.ascii_letters + string.digits + "._-", min_size=1), max_size=8), text=texts)
def test_lists_keep_each_word_once(names: list[str], text: str) -> None:
    assert words(" , ".join(names)) == list(dict.fromkeys(names))
    assert all(word == word.strip() and word for word in words(text))


@LIMITS
@given(name=texts, names=st.lists(texts, max_size=10))
def test_a_name_is_known_or_refused(name: str, names: list[str]) -> None:
    with at_once():
        try:
            assert known(name, names, "thing") in names
        except UsageError as error:
            assert name not in names
            assert str(error).startswith("unknown thing ")  # noqa: PT017 - either is right
