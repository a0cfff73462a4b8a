"""``apo-bench store``: whether a store is whole, and what is damaged out of its way."""

import argparse
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_json, add_store
from apo_bench.say import say, show_json

if TYPE_CHECKING:
    from apo_bench.store.scan import Unreadable
    from apo_bench.store.store import Store
    from apo_bench.store.verification import Verified

HELP = "verify a store, or repair one"
DESCRIPTION = (
    "`verify` reads every record, probe, checkpoint, event and marker and changes nothing; its exit status is 1 where "
    "something is damaged. `repair` moves what is damaged into the store's folder damaged; it deletes nothing, and "
    "leaves what a later version wrote and what is being written."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=("verify", "repair"), help="read everything; or also move what is damaged")
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Verify, repair on demand, and return 1 where something damaged is left."""
    from apo_bench.store.store import Store
    from apo_bench.store.verification import verify

    store = Store(options.store)
    if options.action == "repair":
        store = Store(options.store, create=True)  # also what a copy through git has left out
    verified = verify(store)
    lines = [{**_described(store, found), "moved_to": None} for found in verified.unreadable]
    left = len(verified.damaged)
    if options.action == "repair":
        moved = {found.path: place for found, place in store.set_aside(verified.damaged)}
        for line, found in zip(lines, verified.unreadable, strict=True):
            place = moved.get(found.path)
            line["moved_to"] = str(place.relative_to(store.path)) if place else None
        left -= sum(place is not None for place in moved.values())
    if options.json:
        show_json({"counts": verified.counts, "busy": verified.busy, "found": lines})
        return 1 if left else 0
    for line in lines:
        kind = "of a later version" if line["newer"] else "damaged"
        where = f"; moved to {line['moved_to']}" if line["moved_to"] else ""
        stays = "" if where or line["newer"] or options.action == "verify" else "; not moved: its run is being written"
        say(f"{kind}: {line['path']} ({line['reason']}){where}{stays}")
    say(_summary(verified, left, repaired=options.action == "repair"))
    return 1 if left else 0


def _described(store: "Store", found: "Unreadable") -> dict[str, object]:
    return {"path": str(found.path.relative_to(store.path)), "reason": found.reason, "newer": found.is_newer}


def _summary(verified: "Verified", left: int, *, repaired: bool) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in verified.counts.items()) or "nothing"
    busy = f", {verified.busy} being written" if verified.busy else ""
    if not left:
        return f"{counts} read{busy}: nothing {'left that is ' if repaired and verified.damaged else ''}damaged"
    how = "" if repaired else "; `apo-bench store repair` moves it aside, and `apo-bench run` makes it again"
    return f"{counts} read{busy}: {left} damaged{how}"
