"""An environment that holds some distributions and nothing else, as `pip` would make it, without downloading any."""

import re
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def fresh_python(folder: Path, *named: str) -> Path:
    """Make an environment with this checkout, editable, with what it requires and with what is named.

    Args:
        folder: For it; the packages are links to those of the environment that runs this.
        named: Further requirements.

    Returns:
        Its interpreter.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    (site / "checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    for distribution in _required("apo-bench", *named):
        ours = distribution.metadata["Name"] == "apo-bench"
        for name in sorted({file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}):
            if (ours and not name.endswith(".dist-info")) or name.endswith(".pth") or (site / name).exists():
                continue
            (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    return folder / "bin" / "python"


def _required(*named: str) -> list[metadata.Distribution]:
    """The distributions that are required, directly or not."""
    waiting = [Requirement(name) for name in named]
    found: dict[tuple[str, frozenset[str]], metadata.Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        key = re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras)
        if key in found:
            continue
        found[key] = metadata.distribution(requirement.name)
        for further in map(Requirement, found[key].requires or ()):
            extras = {"", *requirement.extras}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return list(found.values())
