"""Weights & Biases as one more reader of the store.

Live following and a later push are the same code: it reads event files while runs are alive and records once they are
finished, in a process of its own, so that a slow, failing or absent W&B touches no run. One W&B run a run, grouped by
suite and cell; what was pushed is remembered beside the store, a file a run. While it follows it reads what is new.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import netrc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from apo_bench import say
from apo_bench.errors import StoreError, UsageError
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.table import flat_rows
from apo_bench.files import looked_at, write_durably
from apo_bench.planning.installed import InstalledCode
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.cell import Cell
from apo_bench.records.run import Intent, Role, RunRecord
from apo_bench.records.spec import Scale
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.session.wandb_fields import LONGEST, as_cell, as_config, checked_project, fitted
from apo_bench.session.wandb_mirror import Mirror
from apo_bench.store.active import Active
from apo_bench.store.increments import Increments
from apo_bench.store.scan import Piece, Scan, Unreadable
from apo_bench.store.store import Store
from apo_bench.suites import declared_suite
from apo_bench.text import file_name, shortened

if TYPE_CHECKING:
    import wandb


_POLL_SECONDS = 1.0
_PATIENCE = 3
"""Runs in a row that fail for a reason that is none of theirs; more would each wait for the network in vain."""
_LONGEST_REASON = 200
_ABOUT_ALL = frozenset({"CommError", "AuthenticationError", "WandbCoreNotAvailableError", "WandbServiceError"})
"""Errors of wandb that say that it cannot be reached, by name: not every version has each."""
_MACHINE_S = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Errors of the system that another run would meet as well."""


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where runs go.

    Attributes:
        project: W&B project.
        mode: ``online`` or ``offline``.
    """

    project: str
    mode: str


def destination(project: str, mode: str | None) -> Destination:
    """Choose the mode: as asked, else online where a login is known and offline elsewhere.

    Raises:
        UsageError: wandb is not installed, there is no home folder, in which it looks for its settings, or W&B takes no
            project of this name.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UsageError("wandb is not installed; `pip install wandb`, or leave W&B out")
    try:
        Path.home()
    except RuntimeError as error:  # as in a container, under a number that no user has
        raise UsageError(f"user {os.getuid()} has no home folder, which wandb needs; set $HOME to a folder") from error
    return Destination(checked_project(project), mode or ("online" if logged_in() else "offline"))


def logged_in() -> bool:
    """Whether wandb will find an API key: in its environment variable, or where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class RefusedError(Exception):
    """W&B cannot be reached, or not be used at all: no run can be pushed."""


class Pusher:
    """Mirrors the runs of a store.

    A run that W&B does not take costs that run only: it is named, and tried again by the next command.

    Args:
        store: Read only, but for the memory of what was pushed.
        where: Destination.
        again: Whether to push what was pushed before.
        warn: Says what went wrong, a line each.

    Raises:
        StoreError: The folder of what was pushed is a link.
    """

    def __init__(
        self, store: Store, where: Destination, *, again: bool = False, warn: Callable[[str], None] = say.warn
    ) -> None:
        self._store = store
        self._where = where
        self._folder = store.path / "wandb"
        for folder in (self._folder, self._folder / "wandb"):  # in the second one wandb writes
            if folder.is_symlink():
                raise StoreError(f"{folder} is a link, and what is pushed would be written elsewhere; remove the link")
        self._folder.mkdir(exist_ok=True)
        self._again = again
        self._warn = warn
        self._new = Increments(store)
        self._live: dict[str, Mirror] = {}
        self._refused: set[str] = set()
        self._named: set[Path] = set()
        self._in_a_row = 0

    @property
    def refused(self) -> int:
        """How many runs and leaderboards W&B did not take."""
        return len(self._refused)

    @contextlib.contextmanager
    def alone(self, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Push while no other process pushes this store there; yields False when ``stop`` ended the waiting for it.

        Two at once would push a run twice.
        """
        name = f"wandb-{self._where.mode}"
        with contextlib.ExitStack() as claims:
            try:
                mine = claims.enter_context(self._store.claim(name))
            except StoreError:  # this file system has no locks: two at once push the same twice, which loses nothing
                mine = True
            if not mine:
                self._warn("another process pushes this store to W&B; waiting for it, what it leaves is pushed then")
            while not mine and not stop():
                mine = claims.enter_context(self._store.claim(name, patience=_POLL_SECONDS))
            yield mine

    def push(self) -> int:
        """Mirror everything that is new since the last call; returns how many runs were completed.

        Raises:
            RefusedError: W&B takes nothing at all.
        """
        flight = self._store.in_flight()
        self._name(found for found in flight.unreadable if found.piece is Piece.RUN)
        for active in flight.runs:
            if active.running and not self._is_done(active.folder.name):
                self._try(active.folder.name, active.intent, lambda active=active: self._follow(active))  # type: ignore[misc]
        new = self._new.new()
        self._name(new.unreadable)
        completed = 0
        for folder, record in new.by_folder.items():
            if self._is_done(folder.name):
                continue
            self._refused.discard(folder.name)  # what was refused while it ran may be taken as a whole
            completed += self._try(
                folder.name,
                record.intent,
                lambda folder=folder, record=record: self._complete(folder, record),  # type: ignore[misc]
            )
        return completed

    def follow(self, stop: Callable[[], bool]) -> int:
        """Mirror until ``stop`` says so, then whatever is still to come of it; returns how many runs were completed."""
        completed = 0
        while not stop():
            completed += self.push()
            time.sleep(_POLL_SECONDS)
        completed += self.push()
        for mirror in self._live.values():
            mirror.abandon()
        return completed

    def push_leaderboards(self) -> int:
        """Push each leaderboard that is not the one last pushed, as a table, with its page as an artifact.

        Returns:
            How many.
        """
        scan = self._store.scan(curves=False)
        code = InstalledCode(tasks(), optimizers())
        pushed = 0
        for suite, scale in scan.suites:
            name = f"leaderboard {suite} {scale}"
            try:
                pushed += self._push_leaderboard(scan, suite, scale, code)
            except Exception as error:  # noqa: BLE001 - whatever W&B raises costs this one only
                self._refuse(name, name, error)
        return pushed

    def _push_leaderboard(self, scan: Scan, suite: str, scale: Scale, code: InstalledCode) -> bool:
        """Push a leaderboard; False where it is as it was."""
        import wandb

        declared = declared_suite(suite, scale)
        board = leaderboard(suite, scale, scan.of(suite, scale), scan.probes, code, declared)
        page = leaderboard_markdown(board)
        marker = self._marker(f"leaderboard-{file_name(suite)}-{scale}")
        digest = hashlib.sha256(page.encode()).hexdigest()
        if not self._again and _first_bytes(marker, len(digest)) == digest.encode():
            return False
        rows = [{name: as_cell(value) for name, value in row.items()} for row in flat_rows(board)]
        columns: list[str | int] = list(rows[0]) if rows else []
        run = self._init(
            id=f"leaderboard-{time.time_ns():x}-{suite}-{scale}", name=f"leaderboard {suite} {scale}",
            group=f"{suite}-{scale}", job_type="leaderboard",
        )  # fmt: skip
        try:
            run.log({"leaderboard": wandb.Table(columns=columns, data=[list(row.values()) for row in rows])})
            artifact = wandb.Artifact(fitted("artifact", f"leaderboard-{suite}-{scale}"), type="leaderboard")
            with artifact.new_file("leaderboard.md", mode="w", encoding="utf-8") as file:
                file.write(page)
            run.log_artifact(artifact)
        finally:
            run.finish()
        write_durably(marker, digest.encode())
        return True

    def _try(self, name: str, intent: Intent, push: Callable[[], None]) -> bool:
        """Do something for one run; whatever W&B raises costs this one only."""
        if name in self._refused:
            return False
        try:
            push()
        except Exception as error:  # noqa: BLE001 - a plugin's record meets another's library
            if mirror := self._live.pop(name, None):
                mirror.abandon()
            self._refuse(name, intent.spec.title, error)
            return False
        self._in_a_row = 0
        return True

    def _refuse(self, name: str, title: str, error: Exception) -> None:
        """Name what W&B did not take.

        Raises:
            RefusedError: It takes nothing at all.
        """
        what = f"{type(error).__name__}: {shortened(' '.join(str(error).split()), _LONGEST_REASON)}"
        self._in_a_row = self._in_a_row + 1 if _is_about_all(error) else 0
        if isinstance(error, ImportError) or self._in_a_row >= _PATIENCE:
            raise RefusedError(what) from error
        self._refused.add(name)
        self._warn(f"W&B did not take {title} ({what}); the others are pushed, and the next push tries this one again")

    def _name(self, unreadable: Iterable[Unreadable]) -> None:
        """Name what cannot be read, each once."""
        for found in unreadable:
            if found.path not in self._named:
                self._named.add(found.path)
                self._warn(f"{found.path} cannot be read ({found.reason}) and is not pushed; see `apo-bench status`")

    def _follow(self, active: Active) -> None:
        name = active.folder.name
        if name not in self._live:
            self._live[name] = self._open(name, active.intent)
        self._live[name].read(active.folder, self._name)

    def _complete(self, folder: Path, record: RunRecord) -> None:
        name = folder.name
        if name not in self._live:
            self._live[name] = self._open(name, record.intent)
        if self._live[name].complete(folder, record, self._name):
            self._warn(
                f"W&B has numbers of {record.spec.title} that its record has not: they were read while it ran, from "
                "events, which bear no digest; delete the run in W&B and push it with --again"
            )
        del self._live[name]
        write_durably(self._marker(name), b"")

    def _is_done(self, name: str) -> bool:
        return not self._again and _first_bytes(self._marker(name), 0) is not None

    def _open(self, name: str, intent: Intent) -> Mirror:
        spec, suite, scale = intent.spec, intent.suite, intent.scale
        tuning = " tuning" if intent.role is Role.TUNING else ""  # a group of its own, outside all means
        run = self._init(
            id=name,
            name=spec.title,
            group=f"{suite}-{scale}",
            job_type=f"{Cell.of(spec).title}{tuning}",
            config=as_config(msgspec.to_builtins(spec) | {"suite": suite, "scale": str(scale), "run_id": spec.run_id}),
        )
        return Mirror(run)

    def _init(self, **fields: Any) -> "wandb.Run":
        import wandb

        for name in fields.keys() & LONGEST.keys():
            fields[name] = fitted(name, fields[name])
        return wandb.init(
            project=self._where.project,
            mode=self._where.mode,  # type: ignore[arg-type] # one of wandb's words
            dir=str(self._folder),
            reinit="create_new",
            resume="allow",
            save_code=False,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
            **fields,
        )

    def _marker(self, name: str) -> Path:
        """File that remembers that something was pushed: there once W&B has all of it, whole or not at all."""
        return self._folder / f"{file_name(name)}.{self._where.mode}"


def _first_bytes(path: Path, count: int) -> bytes | None:
    """What a file of the memory begins with; `None` where it is no such file, whatever else lies there."""
    with looked_at(path) as descriptor:
        return None if descriptor is None else os.read(descriptor, count)


def _is_about_all(error: Exception) -> bool:
    """Whether an error is about W&B or this machine, and no run's own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) and error.errno in _MACHINE_S:
        return True
    kinds = (ConnectionError, TimeoutError, MemoryError)
    return isinstance(error, kinds) or not names.isdisjoint(_ABOUT_ALL) or "api_key" in str(error)
