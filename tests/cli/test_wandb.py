"""`apo-bench wandb push` and `run --wandb`: W&B gets what the store holds; its offline files are read back."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import PLUG, TINY, records_in, store_of, wait_for
from support.shell import Shell, optimizer_plugin

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

ONE = (*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
_BLOCK = 32768


def _log_records(path: Path) -> Iterator[bytes]:
    """Read a LevelDB log (blocks of 32 KiB, records split into full, first, middle and last pieces)."""
    data = path.read_bytes()
    position, pieces = 7, b""  # W&B's own header of 7 bytes comes first
    while position + 7 <= len(data):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        piece = data[position + 7 : position + 7 + length]
        assert checksum == zlib.crc32(piece, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF
        position += 7 + length
        pieces += piece
        if kind in {1, 4}:
            yield pieces
            pieces = b""


def _read(path: Path) -> dict[str, Any]:
    """Config, history, summary, group and exit code of an offline run."""
    from wandb.proto import wandb_internal_pb2

    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "artifacts": set()}
    for raw in _log_records(path):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined] # its stubs lack it
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"id": record.run.run_id, "group": record.run.run_group, "job": record.run.job_type}
            run["name"], run["project"] = record.run.display_name, record.run.project
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            run["history"].append(items)
        elif kind == "summary":
            run["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            run["artifacts"].add(record.request.log_artifact.artifact.name)
        elif kind == "artifact":
            run["artifacts"].add(record.artifact.name)
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
    return run


def _pushed(shell: Shell) -> list[dict[str, Any]]:
    files = sorted((store_of(shell) / "wandb").rglob("*.wandb"))
    return [_read(file) for file in files]


def _check(shell: Shell) -> None:
    (record,) = records_in(shell)
    runs = _pushed(shell)
    (run,) = (run for run in runs if run["job"] != "leaderboard")
    assert run["project"] == "apo-bench"
    assert run["group"] == "classification-smoke"
    assert run["job"] == "tiny sgdm fp32"
    assert run["config"]["optimizer"]["hyperparameters"] == record["intent"]["spec"]["optimizer"]["hyperparameters"]
    assert run["config"]["seed"] == 0
    assert run["config"]["environment"]["torch"] == record["environment"]["torch"]
    curve = [(point["_step"], point["train_loss"], point["validation"]) for point in run["history"]]
    assert curve == [(point["step"], point["train_loss"], point["validation"]) for point in record["curve"]]
    assert run["summary"]["test"] == record["scores"]["test"]
    assert run["summary"]["train_seconds"] == record["cost"]["train_seconds"]
    assert run["exit"] == 0
    (board,) = (run for run in runs if run["job"] == "leaderboard")
    assert board["summary"]["leaderboard/nrows"] == 1
    assert "leaderboard-classification-smoke" in board["artifacts"]


def test_a_later_push_and_each_run_once(tiny_shell: Shell) -> None:
    tiny_shell(*ONE)
    assert "1 runs pushed to apo-bench (offline)" in tiny_shell("wandb", "push", "--mode", "offline").stdout
    _check(tiny_shell)
    assert "0 runs pushed" in tiny_shell("wandb", "push", "--mode", "offline").stdout


def test_live_following_pushes_the_same(tiny_shell: Shell) -> None:
    done = tiny_shell(*ONE, "--wandb")
    assert "1 runs pushed to apo-bench (offline)" in done.stdout
    _check(tiny_shell)


def test_following_is_live(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.3)"]), PLUG)
    process = tiny_shell.start(*TINY, "--optimizers", "plug", "--precisions", "fp32", "--wandb")
    wait_for(lambda: list((store_of(tiny_shell) / "wandb").rglob("*.wandb")))
    assert not records_in(tiny_shell)  # the W&B run is there before the run is finished
    process.communicate(timeout=60)
    (run,) = (run for run in _pushed(tiny_shell) if run["job"] != "leaderboard")
    assert [point["_step"] for point in run["history"]] == [16, 32]


def test_without_wandb_the_runs_go_on(tiny_shell: Shell) -> None:
    """A module that fails to import stands for an installation without it."""
    (tiny_shell.plugins / "wandb.py").write_text("raise ImportError('no wandb')\n", encoding="utf-8")
    assert "1 of 1 runs have a result" in tiny_shell(*ONE).stdout
    done = tiny_shell(*ONE, "--wandb", "--seeds", "1")
    assert "1 of 1 runs have a result" in done.stdout
    assert "W&B failed (ImportError: no wandb)" in done.stderr
    pushed = tiny_shell("wandb", "push", status=2)
    assert len(pushed.stderr.splitlines()) == 1
