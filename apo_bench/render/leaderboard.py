"""Leaderboards as Markdown and as plain tables. Rendering only: every number comes in finished."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from tabulate import tabulate

from apo_bench.evidence.estimates import Estimate, ValueScale, Verdict
from apo_bench.evidence.rows import Leaderboard, Row, Section
from apo_bench.evidence.summary import Summary
from apo_bench.records.cell import REFERENCE
from apo_bench.render.answer import answer_markdown, answer_text
from apo_bench.render.settings import settings_markdown
from apo_bench.render.terminal import paragraph, terminal_table
from apo_bench.text import MISSING, epochs, escaped, printable, quantity, seconds, shortened, size

_Column = tuple[str, Callable[[Row], str]]
_LONGEST_NAME = 200
"""Characters of a name in a table: a valid one is shorter, with the settings that tell it from others."""


def leaderboard_markdown(board: Leaderboard) -> str:
    """Render a whole leaderboard as a Markdown page."""
    lines = [
        f"# Leaderboard: {escaped(board.suite)}, scale {board.scale}",
        "",
        _progress(board),
        "",
        *(line for one in board.provenance for line in (f"- {escaped(one)}", "")),
        *answer_markdown(board.answer),
    ]
    for section in board.sections:
        lines += [
            f"## {escaped(section.task)} on {section.device}{section.budget}",
            "",
            _facts(section),
            "",
            _table(section, _columns(section)),
            "",
        ]
    for section in board.sections:
        lines += [
            f"## Details: {escaped(section.task)} on {section.device}{section.budget}",
            "",
            _table(section, _details(section)),
            "",
            *settings_markdown(board, section),
            "",
        ]
    if board.tuned:
        lines += ["## Tuning", "", *(f"- {escaped(one.line)}" for one in board.tuned), ""]
    if board.diverged:
        lines += ["## Diverged runs", ""]
        lines += [f"- {escaped(title)}: {escaped(message)}" for title, message in board.diverged]
        lines.append("")
    if board.failures:
        lines += ["## Runs without a result", ""]
        lines += [f"- {escaped(title)}: {escaped(message)}" for title, message in board.failures]
        lines.append("")
    if board.not_counted:
        lines += ["## Steps that were not counted", ""]
        lines += [f"- {escaped(title)}: {escaped(reason)}" for title, reason in board.not_counted]
        lines.append("")
    if board.doubts:
        lines += ["## Doubtful measurements", "", *(f"- {escaped(doubt)}" for doubt in board.doubts), ""]
    rows = [row for section in board.sections for row in section.rows]
    parts = [
        (_LEGEND, True),
        (_LEGEND_PROBE, any(row.step for row in rows)),
        (_LEGEND_TARGET, any(row.reached for row in rows)),
        (_LEGEND_TUNING, bool(board.tuned)),
        (_LEGEND_REPORTED, any(map(_has_reported, board.sections))),
    ]
    legend = "\n".join(text.rstrip("\n") for text, shown in parts if shown)
    lines += ["## How to read this", "", legend, ""]
    if board.machines:
        lines += ["Made on:", ""]
        lines += [f"- {escaped(machine)}" for machine in board.machines]
        lines.append("")
    return "\n".join(lines)


def leaderboard_text(board: Leaderboard) -> str:
    """Render the main columns for a terminal of 80 columns or more."""
    key = paragraph(
        "± (×/÷ a factor, of losses and errors) is a 95 % interval over the n seeds; * marks a difference, or ratio, "
        "whose simultaneous 95 % interval excludes 0, or 1"
    )
    parts = [answer_text(board.answer), *(_section_text(section) for section in board.sections)]
    chosen = ["\n".join(["tuning", *(f"  {printable(one.line)}" for one in board.tuned)])] if board.tuned else []
    notes = [paragraph(one) for one in board.provenance]
    return "\n\n".join([*parts, *chosen, key, *notes, _progress(board)])


def _mark(row: Row) -> str:
    """Behind a row of other code than the installed one."""
    return " †" if row.is_outdated else ""


def _section_text(section: Section) -> str:
    metric = section.facts.metric if section.facts else "score"
    digits = _digits(metric)
    columns: list[_Column] = [
        ("optimizer", lambda row: f"{shortened(printable(row.competitor), _LONGEST_NAME)}{_mark(row)}"),
        ("precision", lambda row: str(row.precision)),
        ("test", lambda row: _score(row, digits)),
        *([("paper", lambda row: _number(row.reported, digits.value))] if _has_reported(section) else []),
        ("n", _count),
        (f"vs. {REFERENCE}", lambda row: _difference(row.versus_reference, digits, bold=False)),
        ("ms/step", lambda row: _number(row.step_ms, ".1f")),
        *([(f"step / {REFERENCE}", _ratio)] if any(row.step for row in section.rows) else []),
    ]
    cells = [[render(row) for _, render in columns] for row in section.rows]
    align = "<<" + ">" * (len(columns) - 2)
    emulated = dict.fromkeys(str(row.precision) for row in section.rows if row.emulated)
    note = f"\n{', '.join(emulated)} is emulated on this device: scores count, times do not" if emulated else ""
    title = paragraph(
        f"{shortened(section.task, _LONGEST_NAME)} on {section.device}, {epochs(section.rows[0].epochs)}: {metric}"
    )
    return f"{title}\n{terminal_table([name for name, _ in columns], cells, align, wrapped=0)}{note}"


_LEGEND = f"""\
- The score is the metric on the **test** set, evaluated once, after the last step of a fixed budget; every competitor
  of a task gets the same epochs, initial weights and batches. *best validation* is the best point of the
  validation curve, for orientation only.
- **±** is the half-width of a 95 % t interval over seeds; n counts the seeds. A row with n = 1 has no interval
  and says nothing about the order.
- *vs. {REFERENCE}* is the difference of means to {REFERENCE} in the same precision, with 95 % intervals that hold
  together over the task's declared comparisons (Welch's with cautious degrees of freedom, Bonferroni). **Bold** where
  the interval excludes zero and there are 3 seeds or more: only there is a difference claimed.
- *Standings*: the interquartile mean of normalized scores over tasks and seeds (0 the trivial predictor, 1 the target),
  with intervals of the rank that hold together; who *cannot be told from* whom is tied. They compare all pairs at once,
  so that a declared comparison may be decided where its two are tied. Looking after every seed, and stopping at the
  first difference, raises the error: `report --seeds-planned N` judges only at the planned number.
- *Declared comparisons* are what the suite is run to find out, declared before the runs; *seeds needed* is with how
  many the difference that was seen would be found in 80 % of cases, an order of magnitude.
- Losses, squared errors and their like are compared by their ratios: shown is the geometric mean, with the factor by
  which its interval goes beyond it either way (**×/÷**); *vs. {REFERENCE}* is then a ratio, and 1 is no difference.
- *training loss* is the last point of the training curve, a mean over the steps since the point before.
- *skipped* counts the steps that loss scaling skipped because a gradient overflowed.
- A cell in which the optimizer raised shows how many runs failed and no mean; *Runs without a result* has its message.
- A cell with a diverged run shows how many diverged and no mean. *Diverged runs* names the step at which
  that was seen and, where a second look found it, the first tensor that held a number that is not finite.
- A cell with a run whose metric is undefined, though its losses are finite, shows how many and no mean either.
- *emulated*: 16-bit products were computed in float32 from 16-bit values and rounded on output; scores are those of
  16 bit, costs are not and stay empty.
- *ms/step* and *training* are this machine's own clock during the run, without evaluation and without drawing batches;
  *memory* is the peak of the run's process (CPU) or of the allocator (CUDA) while it trains; *state* counts the bytes
  an optimizer keeps between steps; *overhead* is the share of *training* that curvature, inverses and meta-updates
  took; *FLOPs/step* are counted, exactly, over a whole cycle of the optimizer's intervals, elementwise work left out.\
"""
_LEGEND_PROBE = f"""\
- *step / {REFERENCE}* was measured apart, by `apo-bench probe`: all optimizers side by side in interleaved rounds, each
  kind of step by itself, composed by how often it occurs; ± is the half-width of a 95 % interval over processes. A
  question mark stands behind a measurement with a reason to doubt it, listed under *Doubtful measurements*. Runs whose
  own step differs from the probed one by more than a quarter are left out of *ms/step* and *training*, and counted.\
"""
_LEGEND_TARGET = """\
- *to target*: steps until the validation metric first reached the task's target, a median over the seeds in which those
  that did not reach it are censored (Kaplan and Meier), and that number times the probed step; without a probe, by the
  runs' own clock where all reached it.\
"""
_LEGEND_TUNING = """\
- *Tuning*: each value of a grid was run on a seed of its own, which is in no table, with the task's budget, in the
  row's precision and at a constant schedule. Chosen is the best mean of the validation metric over the last epoch's
  evaluations; a diverged run never is, and the test set has no say. Beyond an end of the grid a better value may lie.\
"""
_LEGEND_REPORTED = """\
- *reported [P]* is what the paper prints for this task and optimizer (Bae et al., 2022, arXiv 2203.00089): one number a
  cell; no deviation and no count of seeds is given there, so no difference is claimed. Its 16-bit numbers stand beside
  both pure 16-bit formats: which of them it used is not printed.\
"""


def _has_reported(section: Section) -> bool:
    return any(row.reported is not None for row in section.rows)


def _optimizer(row: Row) -> str:
    return f"{escaped(row.competitor)}{_mark(row)}"


def _format(row: Row) -> str:
    return f"{row.precision} (emulated)" if row.emulated else str(row.precision)


def _columns(section: Section) -> list[_Column]:
    """Seven of them: what is read first."""
    metric = section.facts.metric if section.facts else "score"
    digits = _digits(metric)
    has_probe = any(row.step for row in section.rows)
    columns: list[_Column] = [
        ("optimizer", _optimizer),
        ("precision", _format),
        (f"test {escaped(metric)}", lambda row: _score(row, digits)),
        ("n", _count),
        (f"vs. {REFERENCE}", lambda row: _difference(row.versus_reference, digits, bold=True)),
        (f"step / {REFERENCE}", _ratio) if has_probe else ("ms/step", lambda row: _number(row.step_ms, ".1f")),
    ]
    if _has_reported(section):
        columns.append(("reported [P]", lambda row: _number(row.reported, digits.value)))
    elif any(row.reached for row in section.rows):
        columns.append(("to target", _to_target))
    return columns


def _details(section: Section) -> list[_Column]:
    """Everything else."""
    digits = _digits(section.facts.metric if section.facts else "score")
    shown = {name for name, _ in _columns(section)}
    columns: list[_Column] = [
        ("optimizer", _optimizer),
        ("precision", _format),
        ("epochs", lambda row: f"{row.epochs:g}"),
        ("ms/step", lambda row: _number(row.step_ms, ".1f")),
        ("training", _training),
        *([("to target", _to_target)] if any(row.reached for row in section.rows) else []),
        ("memory", lambda row: size(row.peak_memory_bytes)),
        ("state", lambda row: size(row.state_bytes)),
        *(
            [("overhead", lambda row: MISSING if row.overhead is None else f"{100 * row.overhead:.1f} %")]
            if any(row.overhead is not None for row in section.rows)
            else []
        ),
        *(
            [("FLOPs/step", lambda row: MISSING if row.flops_per_step is None else quantity(row.flops_per_step))]
            if any(row.flops_per_step is not None for row in section.rows)
            else []
        ),
        ("skipped", lambda row: str(row.skipped_steps)),
        ("best validation", lambda row: _number(row.best_validation, digits.value)),
        ("training loss", lambda row: _estimate(row.train_loss, _SIGNIFICANT)),
    ]
    return [(name, render) for name, render in columns if name in {"optimizer", "precision"} or name not in shown]


def _table(section: Section, columns: Sequence[_Column]) -> str:
    return tabulate(
        [[render(row) for _, render in columns] for row in section.rows],
        headers=[name for name, _ in columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", "left", *["right"] * (len(columns) - 2)],
    )


def _facts(section: Section) -> str:
    facts = section.facts
    if facts is None:
        return "No run is finished yet."
    return (
        f"{escaped(facts.model)} ({facts.parameters:,} parameters) on {escaped(facts.dataset)}: "
        f"{facts.train_examples:,} training, {facts.validation_examples:,} validation and "
        f"{facts.test_examples:,} test examples; batch {facts.batch_size}, {facts.steps_per_epoch} steps an epoch."
    )


def _progress(board: Leaderboard) -> str:
    rows = [row for section in board.sections for row in section.rows]
    done = sum(row.results for row in rows)
    failed = sum(row.failed for row in rows)
    missing = sum(max(0, row.planned - row.results) for row in rows if row.planned is not None)
    is_planned = any(row.planned is not None for row in rows)
    text = f"{done} of {done + missing} runs have a result" if is_planned else f"{done} runs have a result"
    return f"{text}; {failed} failed." if failed else f"{text}."


def _score(row: Row, digits: "_Digits") -> str:
    if row.raised:
        also = f", diverged {row.diverged}" if row.diverged else ""
        return f"failed {row.raised} of {row.results + row.raised}{also}"
    if row.diverged:
        return f"diverged {row.diverged} of {row.results}"
    if row.undefined:
        return f"undefined {row.undefined} of {row.results + row.failed}"
    return _estimate(row.score, digits)


def _ratio(row: Row) -> str:
    """The probed ratio with its half-width; doubtful ones are marked."""
    if row.step is None:
        return MISSING
    half_width = f" ± {_number(row.step.half_width, '#.2g')}" if row.step.half_width else ""
    return f"{row.step.ratio:.2f}{half_width}{' ?' if row.step.flags else ''}"


def _training(row: Row) -> str:
    text = seconds(row.train_seconds)
    return f"{text} ({row.disagreeing} of {row.results} left out)" if row.disagreeing else text


def _to_target(row: Row) -> str:
    """Steps, and the time they take: by the probe where there is one, else by the runs' own clock."""
    if row.steps_to_target is None:
        return f"{row.reached} of {row.results} reached it" if row.results else MISSING
    composed = row.composed_target_seconds is not None
    taken = row.composed_target_seconds if composed else row.target_seconds
    time = "" if taken is None else f", {seconds(taken)}{'' if composed else ' (own clock)'}"
    some = "" if row.reached == row.results else f", {row.reached} of {row.results} reached it"
    return f"{row.steps_to_target:,.0f} steps{time}{some}"


def _count(row: Row) -> str:
    pending = row.planned is not None and row.results < row.planned
    count = f"{row.results} of {row.planned}" if pending else str(row.results)
    return f"{count}, {row.failed} failed" if row.failed else count


@dataclasses.dataclass(frozen=True)
class _Digits:
    """Format specifications of a value and of the half-width of its interval."""

    value: str
    half_width: str


_FIXED = _Digits(".2f", ".2f")
_SIGNIFICANT = _Digits("#.4g", "#.2g")
"""Four digits, as a loss may be of any size; no more than two of an interval over a few seeds mean much."""


def _digits(metric: str) -> _Digits:
    """Hundredths where the unit is a point of a hundred, as in every published table of it."""
    return _FIXED if "%" in metric or "BLEU" in metric else _SIGNIFICANT


def _estimate(found: Summary | None, digits: _Digits) -> str:
    if found is None:
        return MISSING
    return f"{_number(found.mean, digits.value)}{_spread(found, digits)}"


def _spread(found: Summary, digits: _Digits) -> str:
    """The interval behind its mean; nothing at n = 1."""
    if found.factor is not None:
        return f" ×/÷ {_factor(found.factor)}"
    return "" if found.half_width is None else f" ± {_number(found.half_width, digits.half_width)}"


def _factor(value: float) -> str:
    """A factor of an interval, with digits enough to tell it from 1."""
    if value < 1.1:  # noqa: PLR2004
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.3g}"  # noqa: PLR2004


def _difference(found: Estimate | None, digits: _Digits, *, bold: bool) -> str:
    if found is None or found.value is None or found.low is None or found.high is None:
        return MISSING
    if found.scale is ValueScale.LOG:
        text = f"× {found.value:.3g} ×/÷ {_factor(math.sqrt(found.high / found.low))}"
    else:
        text = f"{_number(found.value, '+' + digits.value)} ± {_number(found.half_width, digits.half_width)}"
    if found.verdict in {Verdict.BETTER, Verdict.WORSE}:
        return f"**{text}**" if bold else f"{text} *"
    return text


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form).removesuffix(".")
