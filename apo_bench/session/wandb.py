"""Weights & Biases as one more reader of the store.

Live following and a later push are the same code: it reads event files while runs are alive and records once they are
finished, in a process of its own, so that a slow, failing or absent W&B touches no run. One W&B run a run, grouped by
suite and cell; what was pushed is remembered beside the store.
"""

import dataclasses
import importlib.util
import netrc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from apo_bench.errors import UsageError
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.table import flat_rows
from apo_bench.records.cell import Cell
from apo_bench.records.events import Evaluated, Started
from apo_bench.records.run import Intent, Role, RunRecord
from apo_bench.records.spec import Scale
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.session.wandb_fields import LONGEST, as_config, as_metrics, checked_project, fitted
from apo_bench.store.scan import Scan, read_events
from apo_bench.store.store import Active, Store

if TYPE_CHECKING:
    import wandb


_POLL_SECONDS = 1.0


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


class Pusher:
    """Mirrors the runs of a store.

    Args:
        store: Read only, but for the memory of what was pushed.
        where: Destination.
        again: Whether to push what was pushed before.
    """

    def __init__(self, store: Store, where: Destination, *, again: bool = False) -> None:
        self._store = store
        self._where = where
        self._folder = store.path / "wandb"
        self._folder.mkdir(exist_ok=True)
        self._again = again
        self._live: dict[str, _Mirror] = {}
        self._done: set[str] = set()

    def push(self) -> int:
        """Mirror everything there is now; returns how many runs were completed."""
        for active in self._store.active():
            if active.running:
                self._follow(active)
        scan = self._store.scan()
        completed = 0
        for folder, record in scan.by_folder.items():
            name = folder.name
            if name in self._done or (self._marker(name).exists() and not self._again):
                continue
            mirror = self._live.pop(name, None) or self._open(name, record.intent)
            mirror.read(folder)
            mirror.finish(record)
            self._marker(name).touch()
            self._done.add(name)
            completed += 1
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

    def push_leaderboards(self) -> None:
        """Push every leaderboard as a table, with its page as an artifact."""
        scan = self._store.scan()
        for suite, scale in sorted({(record.suite, record.scale) for record in scan.records}):
            self._push_leaderboard(scan, suite, scale)

    def _push_leaderboard(self, scan: Scan, suite: str, scale: Scale) -> None:
        import wandb

        board = leaderboard(suite, scale, scan.of(suite, scale), scan.probes)
        rows = flat_rows(board)
        columns: list[str | int] = list(rows[0]) if rows else []
        run = self._init(
            id=f"leaderboard-{suite}-{scale}-{time.time_ns():x}", name=f"leaderboard {suite} {scale}",
            group=f"{suite}-{scale}", job_type="leaderboard",
        )  # fmt: skip
        run.log({"leaderboard": wandb.Table(columns=columns, data=[list(row.values()) for row in rows])})
        artifact = wandb.Artifact(fitted("artifact", f"leaderboard-{suite}-{scale}"), type="leaderboard")
        with artifact.new_file("leaderboard.md", mode="w", encoding="utf-8") as file:
            file.write(leaderboard_markdown(board))
        run.log_artifact(artifact)
        run.finish()

    def _follow(self, active: Active) -> None:
        name = active.folder.name
        if name in self._done or (self._marker(name).exists() and not self._again):
            return
        if name not in self._live:
            self._live[name] = self._open(name, active.intent)
        self._live[name].read(active.folder)

    def _open(self, name: str, intent: Intent) -> "_Mirror":
        spec, suite, scale = intent.spec, intent.suite, intent.scale
        tuning = " tuning" if intent.role is Role.TUNING else ""  # a group of its own, outside all means
        run = self._init(
            id=name,
            name=spec.title,
            group=f"{suite}-{scale}",
            job_type=f"{Cell.of(spec).title}{tuning}",
            config=as_config(msgspec.to_builtins(spec) | {"suite": suite, "scale": str(scale), "run_id": spec.run_id}),
        )
        return _Mirror(run)

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
        return self._folder / f"{name}.{self._where.mode}"


class _Mirror:
    """One W&B run."""

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        self._offset = 0
        self._step = -1

    def read(self, folder: Path) -> None:
        """Log what is new; a continued run repeats some steps, which are passed over."""
        events, self._offset = read_events(folder, self._offset)
        for event in events:
            match event:
                case Started():
                    self._run.config.update({"steps": event.steps}, allow_val_change=True)  # type: ignore[no-untyped-call]
                case Evaluated() if event.point.step > self._step:
                    self._step = event.point.step
                    point: dict[str, Any] = msgspec.to_builtins(event.point)
                    del point["step"]
                    self._run.log(as_metrics(point), step=self._step)
                case _:
                    pass

    def finish(self, record: RunRecord) -> None:
        """Write the summary and close; a run that failed is a failed run there too."""
        facts = {
            name: msgspec.to_builtins(value)
            for name, value in (
                ("task_facts", record.task),
                ("environment", record.environment),
                ("fingerprint", record.fingerprint),
                ("precision_facts", record.precision),
            )
            if value is not None
        }
        self._run.config.update(as_config(facts), allow_val_change=True)  # type: ignore[no-untyped-call]
        summary: dict[str, Any] = {"outcome": msgspec.to_builtins(record.outcome), "continued": record.continued}
        summary |= {name: value for name, value in msgspec.to_builtins(record.scores).items() if value is not None}
        if record.cost:
            summary |= msgspec.to_builtins(record.cost)
        self._run.summary.update(as_metrics(summary))
        self._run.finish(exit_code=0 if record.is_result else 1)

    def abandon(self) -> None:
        """Close a run that was interrupted."""
        self._run.finish(exit_code=1)
