"""Records as a hostile plugin, or a stranger's store, may hold them: valid, with texts that are meant to do harm."""

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from support.records import FACTS, MADE_ON, made_probe, record

from apo_bench.evidence.snapshot import snapshot_of
from apo_bench.records.events import CurvePoint, Remarked, Started
from apo_bench.records.outcome import Crashed, Diverged, Exhausted, Failed, NonFinite, Outcome, Reason, Undefined
from apo_bench.records.probe import Omitted
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.snapshot import Snapshot
from apo_bench.records.spec import OptimizerSpec, Scale
from apo_bench.store.store import Store

SUITE = "classification"
TEXTS = (
    "\x1b]0;title\x07", "\x1b[2J\x1b[H", "a\x1b[31mred", "\x9b31m", "\x9d0;t\x9c", "\x1bPq\x1b\\", "a\x08\x08b", "\x00",
    "a\nb", "a\r\nfake: 1 of 1 runs", "a\rb", "a\tb", "\x0b\x0c", "a\u2028b", "a\u0085b", "\x7f",
    "\u202egnp.exe", "\u2066\u2067x", "a\u200bb", "\ufeffa", "a\u00adb", "\U000e0041\U000e007f", "\u2800\u3164\u115f",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!-- x", "&lt;b&gt;&#x3c;", "a|b", "```\nrm\n```",
    "`x`", "$x^2$", "$\\frac{", "**b** _i_ ~~s~~", "[x](javascript:alert(1))", "![x](https://x.org/a.png)",
    "https://x.org www.x.org", "@everyone", "# title", "- item", "1. item", "---", "{: onclick=alert(1) }", "{{ 7*7 }}",
    '=HYPERLINK("http://x.org","x")', "+cmd|' /C calc'!A0", "-1+1", "@SUM(1)", "\t=1+1", "\uff1d1+1", "';=1", ' "=1',
    "../../etc/passwd", "/etc/passwd", "--output=x", "-h", "nul", ".", "..", "a" * 300, "True", "nan", "1e309",
    "😀👩\u200d👩\u200d👧❤\ufe0f", "e" + "\u0301" * 60, "日本語", "\U0002f800", "\uffff\ufffe", "", " ", "%s%n{0}",
    "\\", "'", '"', "leaderboard",
)  # fmt: skip
"""Names, messages and versions that are put wherever a record has room for a text."""


def hostile_records(text: str) -> list[RunRecord]:
    """Runs of every outcome, full of a text; readings and hyperparameters differ from seed to seed."""
    facts = msgspec.structs.replace(FACTS, dataset=text, model=text, metric=text, metric_signature=text)
    spec = OptimizerSpec(name=text or "o", hyperparameters={"lr": 0.1, text: text})
    environment = msgspec.structs.replace(
        MADE_ON, apo_bench=text, git_sha=text, dirty=True, python=text, torch=text, platform=text, device_name=text,
        cuda=text, driver=text, flags={text: text}, variables={text: text}, packages={text: text}, threads_from=text,
    )  # fmt: skip
    outcomes: tuple[Outcome, ...] = (
        Exhausted(),
        Crashed(message=text),
        Failed(step=3, message=text),
        Undefined(step=3, metric=text, value="nan", loss=1.0),
        Diverged(step=2, reason=Reason.TRAINING_LOSS, first=NonFinite(step=1, tensor=text, dtype=text)),
        Exhausted(),
    )
    made = []
    for seed, outcome in enumerate(outcomes):
        is_scored = isinstance(outcome, Exhausted)
        one = record("o", seed, 80.0 + seed if is_scored else None, outcome=outcome, facts=facts, task=text or "t")
        hyperparameters = spec.hyperparameters if seed % 2 else {"lr": 0.1, "other": seed}
        own = msgspec.structs.replace(spec, hyperparameters=hyperparameters)
        points = tuple(
            CurvePoint(
                step=step, epoch=step / 10, seconds=1.0, train_loss=1.0, validation_loss=1.0, validation=50.0 + step,
                learning_rate_factor=1.0, readings={text: 1.0, f"r{seed}": 2.0} if seed else {},
            )
            for step in (10, 20)
        )  # fmt: skip
        assert one.cost is not None
        made.append(
            msgspec.structs.replace(
                one.under(
                    suite=SUITE,
                    spec=msgspec.structs.replace(one.spec, optimizer=own),
                    fingerprint=msgspec.structs.replace(one.fingerprint, torch=text, data=text),
                    role=Role.TUNING if seed == 5 else Role.REPORTED,
                ),
                environment=environment,
                curve=points,
                left_alone={text: (text, text)},
                cost=msgspec.structs.replace(
                    one.cost,
                    not_counted=text or None,
                    throttle_reasons=(text,),
                    phases={text: 1.0},
                    bytes_by_purpose={text: 1},
                ),
            )
        )
    made.append(made[0].under(suite=text or "s"))
    return made


def write(store: Store, made: RunRecord) -> bool:
    """Put a record into a store as a run does; False where the form of records does not take it."""
    with contextlib.suppress(ValueError):
        store.begin(made.intent).finish(made)
        return True
    return False


@mock.patch("os.fsync", new=mock.Mock())  # hundreds of files, none of which has to survive a crash
def hostile_store(path: Path, *texts: str) -> Store:
    """A store with all of `hostile_records`, a probe, an active run that says each text, and an honest run."""
    store = Store(path, create=True)
    honest = record("sgdm", 0, 75.0).under(suite=SUITE)
    assert write(store, honest)
    for place, text in enumerate(texts):
        for made in hostile_records(text):
            write(store, made)
        spec = msgspec.structs.replace(hostile_records(text)[0].spec, seed=77 + place)
        with contextlib.suppress(ValueError):
            active = store.begin(honest.under(spec=spec).intent)
            active.append(Started(steps=10, left_alone={text: (text,)}))
            active.append(Remarked(message=text))
            active._events.close()
        with contextlib.suppress(ValueError):
            store.keep_probe(hostile_probe(text))
        with contextlib.suppress(OSError, ValueError):
            (store.path / "runs" / text.replace("/", "_")).mkdir()  # no record in it: named as damaged
        with contextlib.suppress(OSError, ValueError):
            (store.path / "suites" / f"{text.replace('/', '_')}-local").mkdir(parents=True)
    return store


def hostile_probe(text: str) -> Any:
    """A probe of the honest run's task, with a competitor that was left out."""
    made = made_probe({"sgdm": {text or "plain": (1.0, [[4.0] * 2] * 3)}}, foreign=1.0)
    omitted = Omitted(optimizer=OptimizerSpec(name=text or "o", hyperparameters={}), message=text)
    return msgspec.structs.replace(made, omitted=(omitted,))


def hostile_snapshot(*texts: str) -> Snapshot:
    """A baseline that was made of them."""
    made = [one for text in texts for one in hostile_records(text) if one.suite == SUITE]
    return snapshot_of(SUITE, Scale.LOCAL, made, [])
