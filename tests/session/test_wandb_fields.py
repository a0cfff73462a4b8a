"""Every field of a W&B run is held to its limit, and what is cut stays apart from what begins alike."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.records import record
from support.shell import Shell

from apo_bench.errors import UsageError
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.cell import Cell
from apo_bench.records.run import Intent, Role
from apo_bench.records.spec import Precision
from apo_bench.session.wandb import Destination, Pusher
from apo_bench.session.wandb_fields import LONGEST, as_config, as_metrics, checked_project, fitted
from apo_bench.store.store import Store


def test_the_job_types_of_all_that_is_registered_fit_and_differ() -> None:
    titles = [
        f"{task} {optimizer} {precision}{tuning}"
        for task, optimizer, precision, tuning in itertools.product(
            tasks().names(), optimizers().names(), Precision, ("", " tuning")
        )
    ]
    made = [fitted("job_type", title) for title in titles]
    assert any(len(title) > 64 for title in titles)
    assert max(map(len, made)) == 64
    assert len(set(made)) == len(titles)
    assert all(short == title for short, title in zip(made, titles, strict=True) if len(title) <= 64)


@pytest.mark.parametrize("field", sorted(LONGEST))
def test_each_field_is_cut_at_its_limit_and_not_before(field: str) -> None:
    longest = LONGEST[field]
    assert fitted(field, "x" * longest) == "x" * longest
    one, other = (fitted(field, "x" * longest + end) for end in "ab")
    assert len(one) == len(other) == longest
    assert one != other
    assert one == fitted(field, "x" * longest + "a")


@pytest.mark.parametrize("field", ["id", "artifact"])
def test_ids_have_no_special_characters_and_stay_apart(field: str) -> None:
    one, other = fitted(field, "a/b"), fitted(field, "a:b")
    assert one != other
    assert re.fullmatch("a_b-[0-9a-f]{8}", one)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 129, r"--project must have 1 to 128 characters \(got 129\)"),
        ("", r"--project must have 1 to 128 characters \(got 0\)"),
        ("a/b", r"--project 'a/b' must not contain any of / \\ # \? % :"),
    ],
)
def test_a_project_is_refused_and_not_renamed(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_project(name)
    assert checked_project("x" * 128) == "x" * 128


def test_names_of_metrics_are_letters_digits_and_underscores() -> None:
    renamed = as_metrics({"rate (η)": 1, "0": 2, "": 3, "_kept": 4, "a.b": 5, "a_b": 6, "deep": {"x y": {"z-1": 7}}})
    names = [*renamed, *renamed["deep"], *renamed["deep"]["x_y"]]
    assert all(re.fullmatch("[_a-zA-Z][_a-zA-Z0-9]*", name) for name in names)
    assert list(renamed.values())[:6] == [1, 2, 3, 4, 5, 6]
    assert renamed["a_b"] == 6
    assert renamed["deep"] == {"x_y": {"z_1": 7}}


def test_names_of_settings_have_no_dots() -> None:
    assert as_config({"a.b": {"c.d": 1}, "pytorch-optimizer": "4"}) == {"a_b": {"c_d": 1}, "pytorch-optimizer": "4"}
    assert len(as_config({"a.b": 1, "a_b": 2})) == 2


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[Intent], dict[str, Any]]:
    """What `wandb.init` is called with for a run."""
    wandb = pytest.importorskip("wandb")
    called: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **fields: called.update(fields))
    pusher = Pusher(Store(tmp_path, create=True), Destination("p", "offline"))

    def begin(intent: Intent) -> dict[str, Any]:
        pusher._open("0123456789abcdef-01234567", intent)
        return called

    return begin


@pytest.mark.parametrize("role", list(Role))
def test_a_run_of_the_longest_names_is_begun_within_the_limits(
    begun: Callable[[Intent], dict[str, Any]], role: Role
) -> None:
    made = record("sgd", 0, 90.0).intent
    optimizer = msgspec.structs.replace(made.spec.optimizer, name="o" * 80)
    spec = msgspec.structs.replace(made.spec, task="t" * 80, optimizer=optimizer)
    fields = begun(msgspec.structs.replace(made, spec=spec, role=role))
    assert fields["id"] == "0123456789abcdef-01234567"
    for name in ("id", "name", "group", "job_type"):
        assert 0 < len(fields[name]) <= LONGEST[name]
    assert fields["config"]["task"] == "t" * 80  # where nothing bounds it, nothing is cut
    assert Cell.of(spec).title.startswith(fields["job_type"][:50])


def test_a_project_that_w_and_b_would_refuse_is_one_line(shell: Shell) -> None:
    pytest.importorskip("wandb")
    Store(shell.folder / "apo-bench-results", create=True)
    done = shell("wandb", "push", "--mode", "offline", "--project", "a?b", status=2)
    assert done.stderr == "apo-bench: --project 'a?b' must not contain any of / \\ # ? % : or a line break\n"
