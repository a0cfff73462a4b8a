"""Write the git revision into the wheel, so that every record can say which code made it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RevisionHook(BuildHookInterface):
    """Write ``apo_bench/_build.json`` with the commit and whether the tree had uncommitted changes."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Ask git; outside a checkout keep the file that the source distribution brought along."""
        target = Path(self.root) / "apo_bench" / "_build.json"
        try:
            revision = self._git("rev-parse", "HEAD")
            dirty = bool(self._git("status", "--porcelain"))
        except (OSError, subprocess.CalledProcessError):
            if target.exists():
                return
            revision, dirty = None, None
        target.write_text(json.dumps({"git_sha": revision, "dirty": dirty}) + "\n", encoding="utf-8")

    def _git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()
