"""What a running command shows: no name or message in it can do anything to the terminal."""

import io
import re

import msgspec
import pytest
from rich.console import Console
from support.hostile_records import TEXTS
from support.records import record

from apo_bench.records import events
from apo_bench.records.events import Remarked, Started
from apo_bench.records.outcome import Crashed, Failed
from apo_bench.records.spec import RunSpec
from apo_bench.session.progress import Display, TerminalDisplay

OWN = re.compile(r"\x1b\[(\?25[lh]|[0-9;]*[mK]|\d*A)|\r")
"""What progress bars send to a terminal: colours, the cursor's place."""


def _run(text: str) -> RunSpec:
    made = record(text or "o", 0, 80.0, task=text or "t").spec
    return msgspec.structs.replace(made, optimizer=msgspec.structs.replace(made.optimizer, name=text))


def _tell(shown: Display, text: str) -> None:
    run = _run(text)
    shown.started(run)
    shown.event(run, Started(steps=10, left_alone={text: (text, text)}))
    shown.event(run, events.Progress(step=5, train_loss=1.0))
    shown.event(run, Remarked(message=text))
    shown.warn(text)
    shown.say(text)
    shown.finished(run, Crashed(message=text))
    shown.finished(run, Failed(step=1, message=text))


@pytest.mark.parametrize("kind", [Display, TerminalDisplay])
def test_no_name_does_anything_to_the_terminal(kind: type[Display]) -> None:
    for text in (*TEXTS, ":bomb: [red]x[/red]"):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=kind is TerminalDisplay, width=100, legacy_windows=False)
        with kind(console, 2, {}) as shown:
            _tell(shown, text)
        said = OWN.sub("", stream.getvalue())
        assert [character for character in said if character != "\n" and not character.isprintable()] == [], text
        assert "💣" not in said


def test_a_line_stays_one_line_and_keeps_its_words() -> None:
    stream = io.StringIO()
    with Display(Console(file=stream, width=40), 1, {}) as shown:
        shown.say("a :bomb: [bold]b[/bold] " + "c" * 100 + "\nd\x1b[1m")
    assert stream.getvalue() == "a :bomb: [bold]b[/bold] " + "c" * 100 + "\\nd\\x1b[1m\n"
