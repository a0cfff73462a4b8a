"""Findings of a check as lines for a terminal and as a Markdown page. Rendering only."""

from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from apo_bench.evidence.check import Finding, Quantity, Verdict
from apo_bench.records.snapshot import Snapshot
from apo_bench.text import MISSING, escaped, printable, quantity


def check_text(findings: Sequence[Finding], before: Snapshot, now: Snapshot, name: str) -> str:
    """What is worse, missing or better, a line each; then a count of everything."""
    shown = [finding for finding in findings if finding.verdict in _SHOWN]
    lines = [_line(finding) for finding in shown]
    reasons = Counter(finding.reason for finding in findings if finding.verdict is Verdict.UNJUDGED)
    lines += [f"not judged: {count} ({reason})" for reason, count in reasons.most_common()]
    return "\n".join(map(printable, [*lines, summary(findings, before, now, name)]))


def check_markdown(findings: Sequence[Finding], before: Snapshot, now: Snapshot, name: str) -> str:
    """The same as a page, with everything that was compared in a table."""
    rows = [
        [
            str(finding.verdict),
            escaped(finding.cell),
            finding.quantity.words if finding.quantity else MISSING,
            _number(finding, finding.before),
            _number(finding, finding.now),
            escaped("; ".join(filter(None, [_change(finding), finding.reason]))),
        ]
        for finding in findings
    ]
    headers = ["", "cell", "what", "before", "now", "change"]
    table = tabulate(
        rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 3 + ["right"] * 2 + ["left"]
    )
    title = "holds" if not any(finding.verdict.fails for finding in findings) else "does not hold"
    return "\n".join(
        [
            f"# Check of {escaped(before.suite)}, scale {before.scale}: {title}",
            "",
            escaped(summary(findings, before, now, name)),
            "",
            table,
            "",
            _LEGEND,
            "",
        ]
    )


def summary(findings: Sequence[Finding], before: Snapshot, now: Snapshot, name: str) -> str:
    """How many of each verdict, in a line."""
    counts = Counter(finding.verdict for finding in findings)
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    made = f"apo-bench {before.apo_bench}, torch {', '.join(before.torch)}"
    if now.cells and before.torch != now.torch:
        made += f"; now torch {', '.join(now.torch)}"
    return f"{len(findings)} comparisons with {name} ({made}): {counted or 'none'}"


_SHOWN = (Verdict.WORSE, Verdict.MISSING, Verdict.BETTER)
_LEGEND = """\
FLOPs, operator calls and bytes of state are counted and compared exactly. Quality is the metric on the validation set
after the last step, compared seed by seed; the cost of a step is a ratio measured by `apo-bench probe`. Both are called
worse or better only where an interval says so that holds at 95 % for all that is judged together.\
"""


def _line(finding: Finding) -> str:
    parts = [f"{finding.verdict}: {finding.cell}"]
    if finding.quantity is not None:
        numbers = f"{_number(finding, finding.before)} → {_number(finding, finding.now)}"
        parts.append(f"{finding.quantity.words} {numbers}{_in_brackets(_change(finding))}")
    if finding.reason:
        parts.append(finding.reason)
    return "; ".join([", ".join(parts[:2]), *parts[2:]]) if finding.quantity else ": ".join(parts)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _number(finding: Finding, value: float | None) -> str:
    if value is None:
        return MISSING
    if finding.quantity in {Quantity.FLOPS, Quantity.CALLS}:
        return quantity(value)
    if finding.quantity is Quantity.STATE:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _change(finding: Finding) -> str:
    """The change as a share, of what is a count."""
    before, now = finding.before, finding.now
    exact = finding.quantity in {Quantity.FLOPS, Quantity.CALLS, Quantity.STATE}
    if not exact or before is None or now is None or not before or before == now:
        return ""
    share = 100 * (now / before - 1)
    return f"{share:+.2g} %" if abs(share) < 1 else f"{share:+.1f} %"
