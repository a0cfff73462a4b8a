"""What W&B takes in each field of a run: its limits, and how what is ours is held to them.

W&B refuses a field that is too long; offline only when the run is uploaded, and then it is too late to change it. A
text that is cut ends with a hash of the whole, so that two that begin alike stay two.

Names and values may be a stranger's: what a terminal obeys, or what hides other text, is escaped.

Sources: 64 characters of a job type (issue 6402 of wandb/wandb), 64 of a tag, 128 of a project and of an artifact's
name (checked by the client, which takes only letters, digits, dashes, underscores and dots in it; a table is an
artifact whose name has the run's id in it), 128 of a run's name, id and group (reports of users); no special characters
in ids and projects (`wandb.init`); letters, digits and underscores in names of metrics (W&B's page on metric naming).
Dots in names of settings are replaced as a precaution: W&B shows nested settings with dots. Notes have no documented
limit.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from apo_bench.errors import UsageError
from apo_bench.text import printable

LONGEST = {"project": 128, "id": 100, "name": 128, "group": 128, "job_type": 64, "tags": 64, "artifact": 128}
"""Characters of each field; an id has less than W&B's 128, as it becomes a part of the names of artifacts."""
_LONGEST_KEY = 128
_SPECIAL = re.compile(r"[/\\#?%:\r\n]")
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9._-]")
_NOT_IN_METRICS = re.compile(r"[^_a-zA-Z0-9]")
_HASH = 8
"""Hexadecimal digits."""


def fitted(field: str, text: str) -> str:
    """A text as a field of a run takes it: itself, or its beginning and a hash of it.

    >>> fitted("job_type", "cifar10.lenet sgdm fp32")
    'cifar10.lenet sgdm fp32'
    >>> fitted("job_type", "x" * 65)
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-9537c5fd'
    """
    clean = _NOT_IN_IDS.sub("_", text) if field in {"id", "artifact"} else printable(text).strip() or "_"
    longest = LONGEST[field]
    if clean == text and len(text) <= longest:
        return text
    return f"{clean[: longest - _HASH - 1]}-{_hash(text)}"


def checked_project(name: str) -> str:
    """The name of a project that the user gave: another would be another project, so it is not cut.

    Raises:
        UsageError: W&B takes no such name.
    """
    longest = LONGEST["project"]
    if not 0 < len(name) <= longest:
        raise UsageError(f"--project must have 1 to {longest} characters (got {len(name)})")
    if _SPECIAL.search(name):
        raise UsageError(f"--project {name!r} must not contain any of / \\ # ? % : or a line break")
    return name


def as_metrics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics, nested ones too, under names by which W&B can sort and filter.

    >>> as_metrics({"loss": 1.0, "readings": {"rate (η)": 0.1}})
    {'loss': 1.0, 'readings': {'rate____': 0.1}}
    """
    return _renamed(values, _NOT_IN_METRICS, metrics=True)


def as_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, nested ones too, without dots in their names: W&B takes a dot for one more level.

    >>> as_config({"flags": {"backends.cudnn.enabled": "True"}})
    {'flags': {'backends_cudnn_enabled': 'True'}}
    """
    return _renamed(values, re.compile(r"\."), metrics=False)


def as_cell(value: Any) -> Any:
    """A value of a table: a text in one line, all else as it is."""
    return printable(value) if isinstance(value, str) else value


def _renamed(values: Mapping[str, Any], unfit: re.Pattern[str], *, metrics: bool) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        new = unfit.sub("_", printable(name))
        if metrics and not new[:1].isalpha():
            new = new if new.startswith("_") else f"_{new}"
        new = new or "_"
        if len(new) > _LONGEST_KEY or (new != name and (new in values or new in renamed)):
            new = f"{new[: _LONGEST_KEY - _HASH - 1]}_{_hash(name)}"
        renamed[new] = _taken(value, unfit, metrics=metrics)
    return renamed


def _taken(value: Any, unfit: re.Pattern[str], *, metrics: bool) -> Any:
    if isinstance(value, Mapping):
        return _renamed(value, unfit, metrics=metrics)
    if isinstance(value, list | tuple):
        return [_taken(one, unfit, metrics=metrics) for one in value]
    return as_cell(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH]
