"""``apo-bench doctor``: what works here, what does not, and the mend."""

import argparse
import json

from apo_bench.commands.common import add_json, add_store

HELP = "check torch, CUDA, NVML, W&B, data and the store"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print one line a check; status 1 when something that is needed does not work."""
    from apo_bench.doctor import examine

    checks = examine(options.store)
    if options.json:
        print(json.dumps([{"name": c.name, "state": c.state, "message": c.message} for c in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:8} {check.name:10} {check.message}")
    return 1 if any(check.state == "broken" for check in checks) else 0
