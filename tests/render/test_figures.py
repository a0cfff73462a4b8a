"""Figures: drawn only from records, the same bytes each time, in the folder that was named and nowhere else."""

from typing import Any

import msgspec
import pytest
from support.records import record

from apo_bench.errors import UsageError
from apo_bench.records.cell import REFERENCE
from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Budget, Precision, Scale
from apo_bench.render.figures import curves, drawings, learning_rates


def _run(
    optimizer: str = REFERENCE,
    seed: int = 0,
    *,
    losses: tuple[float, ...] = (1.0, 0.5, 0.25),
    factors: tuple[float, ...] = (1.0, 1.0, 1.0),
    rates: tuple[float, ...] = (),
    precision: Precision = Precision.FP32,
    task: str = "t",
    lost: bool = False,
    **hyperparameters: Any,
) -> RunRecord:
    outcome = Diverged(step=10 * len(losses) + 3, reason=Reason.TRAINING_LOSS) if lost else None
    made = record(
        optimizer, seed, None if lost else 80.0, outcome=outcome, precision=precision, task=task, **hyperparameters
    )
    points = tuple(
        CurvePoint(
            step=10 * place,
            epoch=place,
            seconds=place,
            train_loss=loss,
            validation_loss=loss,
            validation=50.0 + 10 * place + seed,
            learning_rate_factor=factors[place - 1],
            readings={"learning_rate": rates[place - 1]} if rates else {},
        )
        for place, loss in enumerate(losses, start=1)
    )
    return msgspec.structs.replace(made, curve=points)


def _names(*records: RunRecord) -> list[str]:
    return [drawing.name for drawing in drawings("s", Scale.LOCAL, records)]


def test_equal_records_give_equal_figures() -> None:
    made = [_run(seed=seed, precision=precision) for seed in range(3) for precision in (Precision.FP32, Precision.FP16)]
    first, second = (list(drawings("s", Scale.LOCAL, made)) for _ in range(2))
    assert first == second
    (drawing,) = first
    assert drawing.png.startswith(b"\x89PNG")
    assert b"<svg" in drawing.svg
    assert b"<dc:date>" not in drawing.svg


def test_learning_rates_are_drawn_where_something_moves_them_and_nowhere_else() -> None:
    assert _names(_run()) == ["s-local-t"]
    assert _names(_run(), _run("adam", factors=(1.0, 0.5, 0.0))) == ["s-local-t", "s-local-t-learning-rates"]
    assert _names(_run(), _run("apo-lr-sgd", rates=(0.1, 0.1, 0.1))) == ["s-local-t", "s-local-t-learning-rates"]
    assert _names(record("sgdm", 0, 80.0)) == []  # no curve
    assert list(drawings("other", Scale.LOCAL, [_run()])) == []


def _lines(axes: object) -> list[list[float]]:
    return [[float(y) for y in line.get_ydata()] for line in axes.get_lines()]  # type: ignore[attr-defined] # Axes of matplotlib


def test_a_line_is_the_mean_over_seeds() -> None:
    made = [_run(seed=0, losses=(1.0, 0.5)), _run(seed=1, losses=(3.0, 1.5))]
    loss, validation = curves(made).axes
    assert _lines(loss) == [[1.0, 0.5], [3.0, 1.5], [2.0, 1.0]]
    assert _lines(validation)[-1] == [60.5, 70.5]


def test_a_learning_rate_is_the_rules_own_or_the_schedules() -> None:
    scheduled = _run(factors=(1.0, 0.5, 0.0))
    own = _run("zapo", rates=(0.2, 0.3, 0.4))
    (axes,) = learning_rates([own, scheduled]).axes
    assert axes.get_yscale() == "log"
    assert _lines(axes) == [[0.1, 0.05], [0.2, 0.3, 0.4]]  # a logarithm shows no 0


def test_losses_of_more_than_two_decades_get_a_logarithm() -> None:
    assert curves([_run(losses=(1.0, 0.1, 0.02))]).axes[0].get_yscale() == "linear"
    assert curves([_run(losses=(1.0, 0.1, 0.002))]).axes[0].get_yscale() == "log"
    assert curves([_run(losses=(1.0, 0.1, 0.0))]).axes[0].get_yscale() == "linear"


def test_a_diverged_run_ends_with_a_cross() -> None:
    figure = curves([_run(losses=(1.0, 9.0), lost=True)])
    *_, cross = figure.axes[0].get_lines()
    assert (cross.get_marker(), list(cross.get_ydata())) == ("X", [9.0])  # type: ignore[arg-type] # torch types it loosely
    assert "X" not in {line.get_marker() for line in curves([_run()]).axes[0].get_lines()}


def test_a_competitor_keeps_its_colour_in_every_panel() -> None:
    made = [
        _run(name, precision=precision) for precision in (Precision.FP32, Precision.FP16) for name in ("adam", "kfac")
    ]
    made.append(_run("aaa", precision=Precision.FP16))
    colours = [[line.get_color() for line in axes.get_lines()] for axes in curves(made).axes[:2]]
    assert colours[0] == colours[1][1:]
    assert len({*colours[1]}) == 3


def test_settings_of_one_optimizer_are_lines_of_their_own() -> None:
    slow, fast = _run(), _run(losses=(0.9, 0.4, 0.1))
    spec = msgspec.structs.replace(fast.spec, optimizer=msgspec.structs.replace(fast.spec.optimizer, schedule=Cosine()))
    figure = curves([slow, fast.under(spec=spec)])
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["sgdm (constant)", "sgdm (cosine)"]


def test_each_budget_has_a_figure_of_its_own() -> None:
    longer = _run("adam", losses=(0.9, 0.4, 0.1))
    longer = longer.under(spec=msgspec.structs.replace(longer.spec, budget=Budget(epochs=15)))
    assert _names(_run(), _run("adam"), longer) == ["s-local-t-5-epochs", "s-local-t-15-epochs"]


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a/b", "a\nb", ""])
def test_no_name_in_a_record_escapes_the_folder(name: str) -> None:
    with pytest.raises(UsageError, match="not usable"):
        _names(_run(task=name))


def test_a_name_that_is_not_fit_for_a_file_stops_no_other_figure() -> None:
    drawn = drawings("s", Scale.LOCAL, [_run(task="a/b"), _run(), _run(task="z")])
    assert [next(drawn).name, next(drawn).name] == ["s-local-t", "s-local-z"]
    with pytest.raises(UsageError, match="'a/b' is not usable"):
        next(drawn)


@pytest.mark.parametrize("name", ["a\x1b]0;x\x07\n\u202e", "😀 日本", "", "$x$^{", "x" * 1000, "e" + "\u0301" * 300])
def test_any_name_is_a_label(name: str) -> None:
    made = [_run(name), _run("sgdm"), _run(name, precision=Precision.FP16)]
    facts = made[0].task
    assert facts is not None
    made = [msgspec.structs.replace(one, task=msgspec.structs.replace(facts, metric=name)) for one in made]
    (drawing,) = drawings("s", Scale.LOCAL, made)  # a glyph that is missing, or no room, would be a warning
    assert drawing.png.startswith(b"\x89PNG")
    shown = [text.get_text() for text in curves(made).legends[0].get_texts()]
    assert all(text.isprintable() and len(text) < 1000 for text in shown)
    assert len(shown) == 2


def test_two_competitors_of_one_label_are_both_drawn() -> None:
    made = [_run("o"), _run("o", lr=1.0), _run("o (lr=0.1)", losses=(3.0, 3.0, 3.0))]
    assert [3.0] * 3 in _lines(curves(made).axes[0])
    assert [1.0, 0.5, 0.25] in _lines(curves(made).axes[0])


def test_no_name_in_a_record_is_read_as_mathematics() -> None:
    assert _names(_run("$\\frac{"), _run("_hidden")) == ["s-local-t"]
    texts = curves([_run("$\\frac{"), _run("_hidden")]).legends[0].get_texts()
    assert [text.get_text() for text in texts] == ["$\\frac{", "_hidden"]
