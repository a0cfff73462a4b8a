"""What several commands share: the store, its damage, and scalars on the command line."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.cli.values import FromEnvironment, path_of
from apo_bench.errors import StoreError, UsageError, did_you_mean, shown
from apo_bench.say import warn

if TYPE_CHECKING:
    from apo_bench.planning.installed import InstalledCode
    from apo_bench.records.spec import Device, Scale
    from apo_bench.store.scan import Scan, Unreadable
    from apo_bench.store.store import Store


_DEFAULT_STORE = "apo-bench-results"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare ``--store``."""
    parser.add_argument(
        "--store",
        type=path_of("--store"),
        metavar="DIR",
        default=FromEnvironment.read("APO_BENCH_STORE") or _DEFAULT_STORE,
        help=f"folder of the results (default: $APO_BENCH_STORE or {_DEFAULT_STORE})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare what selects the cells of a suite and where they are computed; `cli.selection.Selection` reads it."""
    parser.add_argument("--suite", required=True, metavar="NAME", help="see `apo-bench list suites`")
    parser.add_argument(
        "--scale", metavar="SCALE", help="smoke, local or paper; by default paper where there is CUDA, else local"
    )
    parser.add_argument(
        "--tasks", metavar="A,B", help="these tasks instead of the suite's; `run` needs --epochs for any other"
    )
    parser.add_argument("--optimizers", metavar="A,B", help="these optimizers instead of the suite's, or all")
    parser.add_argument("--precisions", metavar="A,B", help="these precisions instead of the suite's")
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME.FIELD=VALUE",
        help="set a hyperparameter, for example sgdm.lr=0.1, in place of its grid if it has one; may be repeated",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--compile", action="store_true", help="run models through torch.compile")


def installed_code() -> "InstalledCode":
    """Which code is installed, for commands that read: they import no plugin."""
    from apo_bench.planning.installed import InstalledCode
    from apo_bench.plugins.registry import optimizers, tasks

    return InstalledCode(tasks(), optimizers())


def check_device(options: argparse.Namespace) -> None:
    """Refuse a kind of device that does not exist, before torch is imported.

    Raises:
        UsageError: Unknown name.
    """
    from apo_bench.cli.selection import known
    from apo_bench.records.spec import Device

    if options.device is not None:
        known(options.device, [str(device) for device in Device], "device")


def chosen_device(options: argparse.Namespace) -> "Device":
    """The kind of device that ``--device`` names, or the best there is.

    Raises:
        UsageError: There is no CUDA device.
    """
    import torch

    from apo_bench.records.spec import Device

    available = torch.cuda.is_available()
    if options.device is None:
        return Device.CUDA if available else Device.CPU
    if options.device == Device.CUDA and not available:
        raise UsageError("device 'cuda' is not available: torch finds no CUDA device; use --device cpu")
    return Device(options.device)


def default_scale(device: "Device") -> "Scale":
    """The scale of a suite where none is asked for."""
    from apo_bench.records.spec import Device, Scale

    return Scale.PAPER if device is Device.CUDA else Scale.LOCAL


def warn_of_unreadable(scan: "Scan") -> None:
    """Name everything that cannot be read in a line of its own; nothing is moved."""
    warn_of(*scan.unreadable)
    _warn_of_the_future(scan)


def warn_of(*unreadable: "Unreadable") -> None:
    """Name what cannot be read, a line each."""
    from apo_bench.store.scan import Piece

    for found in unreadable:
        if found.is_newer:
            warn(_of_a_later_version(found))
            continue
        then = " and makes it again" if found.piece in {Piece.RECORD, Piece.RUN} else ""
        warn(f"damaged {found.piece}: {found.path} ({found.reason}); `apo-bench run` sets it aside{then}")


def set_damaged_aside(store: "Store", scan: "Scan") -> None:
    """Move what is damaged out of the way of a command that runs, and name everything that cannot be read."""
    from apo_bench.store.scan import Piece

    flight = store.in_flight()
    for found, place in store.set_aside([*scan.damaged, *flight.damaged]):
        if place is None:
            stays = "its run is being written, or it cannot be moved; look at it with `apo-bench store verify`"
            warn(f"damaged {found.piece}: {found.path} ({found.reason}); {stays}")
            continue
        then = "; `apo-bench run` makes it again" if found.piece in {Piece.RECORD, Piece.RUN} else ""
        warn(f"damaged {found.piece} set aside: {place} ({found.reason}){then}")
    warn_of(*(found for found in (*scan.unreadable, *flight.unreadable) if found.is_newer))
    _warn_of_the_future(scan)


def _warn_of_the_future(scan: "Scan") -> None:
    """Say in one line that records bear times that are not yet."""
    if scan.ahead:
        path, time = list(scan.ahead.items())[-1]
        count = f"{len(scan.ahead)} records bear times" if len(scan.ahead) > 1 else "a record bears a time"
        warn(
            f"{count} in the future ({path}: {time[:16].replace('T', ' ')}): a clock was ahead, or this one is behind; "
            "such a record ranks below every other of its run"
        )


def _of_a_later_version(found: "Unreadable") -> str:
    return f"{found.path} is of a later version ({found.reason}) and left out; upgrade apo-bench to read it"


def refuse_vanished(store: Path, error: OSError) -> None:
    """Name the likeliest reason of an error: the store was removed, or its disk taken away, during the command.

    Raises:
        StoreError: The store is gone.
    """
    if not (store / "runs").is_dir():
        raise StoreError(
            f"the store {store} has vanished while it was used ({error.strerror}); nothing was written elsewhere: put "
            "it back, and give the same command again"
        ) from error


def write(path: Path, data: bytes, *, option: str = "--output") -> None:
    """Write a file that the user named.

    Raises:
        UsageError: It cannot be written.
    """
    from apo_bench.files import write_durably

    try:
        write_durably(path, data)
    except (OSError, ValueError) as error:  # a path without a name is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {path} ({reason}); name another place with {option}") from error


def chosen_scale(options: argparse.Namespace, scan: "Scan") -> "Scale":
    """The scale that a reading command means: the one it names, or the largest of the suite that the store holds.

    Raises:
        UsageError: Unknown suite or scale, or the store holds nothing of it.
    """
    from apo_bench.cli.selection import parse_scale
    from apo_bench.suites import SUITES

    if options.suite not in SUITES:
        raise UsageError(f"unknown suite {shown(options.suite)}{did_you_mean(options.suite, SUITES)}")
    held = scan.scales(options.suite)
    if not held:
        raise UsageError(f"no results of suite {options.suite!r} in {options.store}; run it first")
    scale = held[-1] if options.scale is None else parse_scale(options.scale)
    if scale not in held:
        raise UsageError(
            f"no results of suite {options.suite!r} at scale {str(scale)!r} in {options.store}; "
            f"there are: {', '.join(held)}"
        )
    return scale
