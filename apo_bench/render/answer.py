"""The answer of a page: sentences, standings and declared comparisons, as Markdown and for a terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from apo_bench.evidence.answer import Answer, Ranking
from apo_bench.evidence.estimates import Estimate, ValueScale, Verdict
from apo_bench.evidence.judgements import Judgement
from apo_bench.render.terminal import paragraph
from apo_bench.text import MISSING, escaped, printable

_SHOWN = 3
"""Of undecided comparisons in the sentences: the tables have all."""


def sentences(answer: Answer) -> list[str]:
    """What can be said, in plain sentences; names are as records have them."""
    found: list[str] = []
    for ranking in answer.rankings:
        found += _of_ranking(ranking)
    found += _claims(answer.judgements)
    open_ones = [one for one in answer.judgements if one.estimate.verdict is Verdict.UNDECIDED]
    if open_ones:
        nearest = sorted(open_ones, key=lambda one: one.estimate.seeds_needed or float("inf"))[:_SHOWN]
        named = "; ".join(_needs(one) for one in nearest if one.estimate.seeds_needed is not None)
        total = f"{len(open_ones)} of {len(answer.judgements)} declared comparisons are undecided"
        found.append(f"{total}. {named[:1].upper()}{named[1:]}." if named else f"{total}.")
    missing = [one for one in answer.judgements if _is_missing(one)]
    if missing:
        found.append(f"{len(missing)} of {len(answer.judgements)} declared comparisons have no run on one side.")
    for reason, count in Counter(
        one.estimate.reason
        for one in answer.judgements
        if one.estimate.verdict is Verdict.UNJUDGED and not _is_missing(one)
    ).most_common(_SHOWN):
        found.append(f"{count} of {len(answer.judgements)} declared comparisons are not judged: {reason}.")
    if not found:
        found.append("Nothing can be said yet: a comparison needs 3 seeds of two competitors.")
    return found


def _claims(judgements: Sequence[Judgement]) -> Iterator[str]:
    """One sentence for all that are better, worse or equivalent to the same one in one place."""
    groups: dict[tuple[str, str, str, str, Verdict], list[Judgement]] = {}
    for one in judgements:
        verdict, place, right = one.estimate.verdict, one.resolved, one.contrast.right.words
        if verdict in {Verdict.BETTER, Verdict.WORSE, Verdict.EQUIVALENT}:
            key = (place.workload.task, str(place.precision), _quantity(one), right, verdict)
            groups.setdefault(key, []).append(one)
    for (task, precision, quantity, right, verdict), own in groups.items():
        named = [f"{one.contrast.left.words} ({estimate_text(one.estimate)}, n = {one.estimate.n})" for one in own]
        relation = "to" if verdict is Verdict.EQUIVALENT else "than"
        yield f"{task}, {precision}, {quantity}: {verdict} {relation} {right}: {_listed(named)}."


def _is_missing(one: Judgement) -> bool:
    return one.resolved.left is None or one.resolved.right is None


def _quantity(one: Judgement) -> str:
    """Its title, with the unit."""
    quantity = one.resolved.quantity
    return f"{quantity.title} {quantity.unit}".strip()


def _needs(one: Judgement) -> str:
    place, estimate = one.resolved, one.estimate
    missing = estimate.seeds_missing or 0
    seeds = "seed" if missing == 1 else "seeds"
    return (
        f"about {missing} more {seeds} would decide {one.contrast.words} on {place.workload.task} in {place.precision} "
        f"({estimate_text(estimate)})"
    )


def _of_ranking(ranking: Ranking) -> Iterator[str]:
    made = ranking.standings
    where = f"{ranking.precision} on {ranking.device}, {_tasks(ranking.tasks)}, n = {ranking.seeds}"
    rows = made.rows
    if len(rows) > 1:
        if made.leader is not None:
            yield f"{where}: {made.leader} is first beyond doubt."
        beaten = {name: others for name, others in ranking.beaten.items() if name != made.leader}
        if beaten:
            pairs = "; ".join(f"{name} is surely better than {_listed(others)}" for name, others in beaten.items())
            yield f"{where}: {pairs}." if made.leader is None else f"{pairs[:1].upper()}{pairs[1:]}."
        elif made.leader is None:
            yield (
                f"{where}: over all pairs at once, nobody can be told from anybody "
                f"({_listed([row.name for row in rows])})."
            )
        for better, worse, estimate in ranking.undecided[:_SHOWN]:
            if estimate.seeds_needed is not None and len(ranking.tasks) > 1:
                yield (
                    f"About {estimate.seeds_needed} seeds a competitor would tell {better} from {worse} "
                    f"({ranking.precision}); there are {estimate.n}."
                )
    for name, reason in made.unranked.items():
        yield f"{name} is not ranked ({ranking.precision}): {reason}."
    if ranking.left_out:
        reasons: dict[str, list[str]] = {}
        for task, reason in ranking.left_out.items():
            reasons.setdefault(reason, []).append(task)
        listed = "; ".join(f"{_listed(tasks)} ({reason})" for reason, tasks in reasons.items())
        yield f"Not in the standings ({ranking.precision}): {listed}."


def _tasks(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def estimate_text(estimate: Estimate) -> str:
    """A difference with its interval, a ratio with a × before it.

    >>> estimate_text(Estimate(1.5, 0.5, 2.5, 5))
    '+1.5 [+0.5, +2.5]'
    """
    if estimate.value is None:
        return MISSING
    sign = "×" if estimate.scale is ValueScale.LOG else ""
    form = ".3g" if sign else "+.3g"
    text = f"{sign}{estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{form}}, {estimate.high:{form}}]"


def answer_markdown(answer: Answer) -> list[str]:
    """The first section of a page."""
    lines = ["## Answer", "", *(f"- {escaped(sentence)}" for sentence in sentences(answer)), ""]
    for ranking in answer.rankings:
        if len(ranking.standings.rows) > 1:
            title = f"{ranking.precision} on {ranking.device}, {_tasks(ranking.tasks)}"
            lines += [f"### Standings: {escaped(title)}", "", _standings_table(ranking), ""]
    if not all(map(_is_missing, answer.judgements)):
        lines += ["### Declared comparisons", "", _judgements_table(answer.judgements), ""]
    return lines


def answer_text(answer: Answer) -> str:
    """For a terminal of 80 columns."""
    return "\n".join(paragraph(f"- {printable(sentence)}") for sentence in sentences(answer))


def _standings_table(ranking: Ranking) -> str:
    rows = [
        [
            escaped(row.name),
            f"{row.score:.3f}",
            str(row.best_rank) if row.best_rank == row.worst_rank else f"{row.best_rank} to {row.worst_rank}",
            escaped(", ".join(row.tied_with)) or MISSING,
            escaped(", ".join(row.last_on)) or MISSING,
        ]
        for row in ranking.standings.rows
    ]
    headers = ["competitor", "score", "rank", "cannot be told from", "lost runs on"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=["left", *["right"] * 4])


def _judgements_table(judgements: Sequence[Judgement]) -> str:
    rows = []
    for one in judgements:
        if _is_missing(one):
            continue
        place, estimate = one.resolved, one.estimate
        verdict = str(estimate.verdict)
        if estimate.verdict is Verdict.UNDECIDED and estimate.seeds_needed is not None:
            verdict += f", about {estimate.seeds_needed} seeds needed"
        reason = estimate.reason or estimate.doubt
        rows.append(
            [
                escaped(one.contrast.words),
                escaped(place.workload.task),
                str(place.precision),
                escaped(_quantity(one)),
                escaped(estimate_text(estimate)),
                str(estimate.n),
                f"{verdict}: {escaped(reason)}" if reason else verdict,
            ]
        )
    headers = ["comparison", "task", "precision", "quantity", "estimate with interval", "n", "verdict"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
