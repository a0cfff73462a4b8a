"""The paper's claims, judged: lines for a terminal, a Markdown page, and values for JSON. Rendering only."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from apo_bench.evidence.bounds import STATE, Compared
from apo_bench.evidence.claims import Judged, Place, Standing
from apo_bench.evidence.estimates import Estimate, ValueScale
from apo_bench.records.spec import Scale
from apo_bench.render.terminal import paragraph
from apo_bench.text import MISSING, escaped, printable

_RULE = (
    "A place is judged only where its precondition is shown: the lower end of the interval lies above the margin. A "
    "claim is supported where every place that was judged supports it, contradicted where one contradicts it and none "
    "supports it, and mixed where some do either. The intervals of all declared places of a claim hold together at "
    "95 %; those of its preconditions likewise."
)
_INDENT = "  "
_COUNTED = (Standing.SUPPORTED, Standing.CONTRADICTED, Standing.UNDECIDED, Standing.UNJUDGED)


def claims_text(judged: Sequence[Judged], scale: Scale, notes: Sequence[str] = ()) -> str:
    """Each claim with its verdict first, then a paragraph for each place."""
    said = [paragraph(printable(note)) for note in notes]
    is_empty = not any(one.places for one in judged)
    blocks = said if is_empty else []
    for one in judged:
        head = paragraph(f"{one.claim.id} {verdict(one)}: {one.claim.statement} [{one.claim.source}]", hang=_INDENT)
        lines = [head, paragraph(one.claim.criterion, _INDENT)]
        for words, command in _commands(one, scale):
            lines += [paragraph(f"{words}:", _INDENT), f"{_INDENT * 2}{command}"]
        lines += [_place_text(place) for place in one.places]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *([] if is_empty else said), paragraph(_RULE)])


def _place_text(place: Place) -> str:
    compared = place.compared
    where = f"{place.standing}: {compared.place.contrast.name}; {_where(compared)}"
    lines = [paragraph(printable(where), _INDENT, _INDENT)]
    number = "" if compared.estimate.value is None else f"{_estimate(compared)}, n = {compared.estimate.n}"
    found = "; ".join(filter(None, [number, place.reason, place.doubt]))
    lines.append(paragraph(printable(found), _INDENT * 2))
    if place.question.precondition is not None:
        lines.append(paragraph(printable(f"precondition {_gate(place)}"), _INDENT * 2))
    return "\n".join(lines)


def claims_markdown(judged: Sequence[Judged], scale: Scale, notes: Sequence[str] = ()) -> str:
    """The page: all verdicts first, then each claim with a table of its places."""
    summary = [[one.claim.id, escaped(one.claim.statement), f"[{one.claim.source}]", verdict(one)] for one in judged]
    parts = [
        f"# Claims of the paper, scale {scale}",
        _table(["", "claim", "source", "verdict"], summary, "llll"),
        "[P] stands on the poster, [A] in the abstract or a caption of the paper (arXiv 2203.00089).",
        *map(escaped, notes),
        _RULE,
    ]
    for one in judged:
        parts += [f"## {one.claim.id}: {verdict(one)}", f"{escaped(one.claim.statement)} [{one.claim.source}]."]
        parts.append(escaped(one.claim.criterion))
        parts += [f"{words}:\n\n```sh\n{command}\n```" for words, command in _commands(one, scale)]
        if one.places:
            headers = ["place", "comparison", "precondition", "difference or ratio", "n", "verdict"]
            parts.append(_table(headers, [_row(place) for place in one.places], "llllrl"))
    return "\n\n".join(parts) + "\n"


def _row(place: Place) -> list[str]:
    compared = place.compared
    remarks = "; ".join(filter(None, [str(place.standing), place.reason, place.doubt]))
    return [
        escaped(_where(compared)),
        escaped(compared.place.contrast.name),
        escaped(_gate(place)),
        _estimate(compared),
        str(compared.estimate.n),
        escaped(remarks),
    ]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    sides = ["left" if one == "l" else "right" for one in align]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


def claims_json(judged: Sequence[Judged], scale: Scale, notes: Sequence[str] = ()) -> dict[str, Any]:
    """For a program."""
    return {"scale": str(scale), "notes": list(notes), "claims": [_claim_json(one) for one in judged]}


def _claim_json(one: Judged) -> dict[str, Any]:
    return {
        "id": one.claim.id,
        "statement": one.claim.statement,
        "source": one.claim.source,
        "criterion": one.claim.criterion,
        "verdict": str(one.standing),
        "declared_places": one.declared,
        "suites": list(one.suites),
        "places": [_place_json(place) for place in one.places],
    }


def _place_json(place: Place) -> dict[str, Any]:
    gate = place.question.precondition
    where = place.compared.place
    return {
        "suite": place.question.suite,
        "task": where.workload.task,
        "device": str(where.workload.device),
        "epochs": where.workload.epochs,
        "precision": str(where.precision),
        "contrast": where.contrast.name,
        "left": where.contrast.left.words,
        "right": where.contrast.right.words,
        "quantity": where.contrast.quantity,
        "support": str(place.question.support),
        "margin": where.contrast.margin,
        "verdict": str(place.standing),
        "reason": place.reason,
        "doubt": place.doubt,
        "estimate": _estimate_json(place.compared),
        "precondition": None
        if gate is None
        else {"words": gate.words, "margin": gate.contrast.margin, "estimate": _estimate_json(place.gate)},
    }


def _estimate_json(compared: Compared | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    estimate = compared.estimate
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "scale": str(estimate.scale),
        "family": estimate.family,
        "reason": estimate.reason,
        "beyond_margin": str(compared.verdict),
        "more_seeds": compared.beyond.seeds_missing,
    }


def verdict(one: Judged) -> str:
    """A claim's verdict, with the number of places behind it."""
    counts = [f"{one.count(standing)} {standing}" for standing in _COUNTED if one.count(standing)]
    missing = one.declared - len(one.places)
    counts += [f"{missing} without runs"] if missing > 0 else []
    said = f" (of {one.declared} places: {', '.join(counts)})" if one.declared else " (the scale declares no ground)"
    return f"{one.standing}{said}"


def _commands(one: Judged, scale: Scale) -> list[tuple[str, str]]:
    """What to run where a suite of a claim has no runs."""
    there = {place.question.suite for place in one.places}
    return [
        (f"No runs of suite {suite}; make them with", f"apo-bench run --suite {suite} --scale {scale}")
        for suite in one.suites
        if suite not in there
    ]


def _where(compared: Compared) -> str:
    place = compared.place
    return f"{place.workload.task}, {place.workload.device}, {place.precision}"


def _gate(place: Place) -> str:
    if place.question.precondition is None:
        return MISSING
    if place.gate is None:
        return f"{place.question.precondition.words}: {MISSING}"
    number = _estimate(place.gate) if place.gate.estimate.value is not None else place.gate.estimate.reason
    return f"{place.question.precondition.words}: {number}, n = {place.gate.estimate.n}"


def _estimate(compared: Compared) -> str:
    """A difference with its sign, or a ratio, with its interval."""
    estimate = compared.estimate
    if estimate.value is None:
        return MISSING
    unit = " × the parameters" if compared.place.contrast.quantity == STATE else ""
    interval = "" if estimate.low is None or estimate.high is None else f" [{_ends(estimate)}]"
    return f"{_number(estimate.value, estimate.scale)}{interval}{unit}"


def _ends(estimate: Estimate) -> str:
    ends = (estimate.low, estimate.high)
    return ", ".join(MISSING if end is None else _number(end, estimate.scale) for end in ends)


def _number(value: float, scale: ValueScale) -> str:
    if scale is ValueScale.LOG:
        return f"×{value:.3g}"
    return f"{value:+.2f}".replace("-", "\u2212")
