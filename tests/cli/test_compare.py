"""`apo-bench compare` and `report --price-on`: what A and B may be, where the page goes, and what the status says."""

import json
from pathlib import Path

import msgspec
import pytest
from support.records import MADE_ON, flat
from support.snapshots import run, runs

from apo_bench.cli.main import main
from apo_bench.records.run import Fingerprint, RunRecord, encode
from apo_bench.store.store import Store

CHANGED = Fingerprint(harness="h", task="t", optimizer="feedbeef", torch="2", data="d")


def at(record: RunRecord, sha: str) -> RunRecord:
    return msgspec.structs.replace(record, environment=msgspec.structs.replace(MADE_ON, git_sha=sha))


def put(folder: Path, *records: RunRecord) -> Path:
    store = Store(folder, create=True)
    for record in records:
        store.begin(record.intent).finish(record)
    return folder


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores ``before``, ``same`` and ``worse``, of which the last has an optimizer more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("APO_BENCH_STORE", raising=False)
    put(tmp_path / "before", *runs())
    put(tmp_path / "same", *runs())
    put(tmp_path / "worse", *runs([70.1, 71.0, 69.0]), run("lion"))
    return tmp_path


def test_two_stores(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "before", "same"]) == 0
    assert "identical to the last bit in all 4 comparisons" in capsys.readouterr().out
    assert main(["compare", "before", "worse", "--output", "page.md"]) == 1
    assert capsys.readouterr().out == "page.md\n"
    page = (stores / "page.md").read_text(encoding="utf-8")
    assert page.startswith("# worse against before\n\nB is worse in 1 ")
    assert "only in B: t on cpu, 5 epochs: lion fp32" in page
    assert main(["compare", "worse", "before", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"]["better"], told["b"]["name"]) == (1, "before")


def test_published_tables_and_a_store(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stores / "report").mkdir()
    for name, output in (("before", "report/runs.csv"), ("worse", "worse.csv")):
        assert main(["export", "--store", name, "--output", output]) == 0
    capsys.readouterr()
    assert main(["compare", "report", "before"]) == 0
    assert "identical to the last bit in all 4" in capsys.readouterr().out
    assert main(["compare", "report", "worse.csv"]) == 1
    assert main(["compare", "report", "worse.csv", "--scale", "smoke"]) == 3
    assert main(["compare", "report", "worse.csv", "--suite", "s"]) == 1
    (stores / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["compare", "report", "other.csv"]) == 2
    assert "has no column 'run_id'" in capsys.readouterr().err


def test_two_revisions_of_one_store(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = [record.under(fingerprint=CHANGED) for record in runs([70.1, 71.0, 69.0])]
    put(stores / "both", *(at(one, "aaaa0000") for one in runs()), *(at(one, "aaaab111") for one in new))
    common = ["--store", "both"]
    assert main(["compare", "aaaa0", "aaaab", *common]) == 1
    assert "optimizer in 1" in capsys.readouterr().out
    assert main(["compare", "feedbeef", "aaaa0", *common]) == 0
    capsys.readouterr()
    for a, b, words in (
        ("aaaa", "aaaab", "may be any of aaaa0000, aaaab111"),
        ("aaaab1", "aaaab", "are both revision aaaab111"),
        ("aaaab", "cccc", "'cccc' is no store or published table, and both has no such optimizer or revision"),
        ("aaaab", "kfac", "must both be optimizers, or both be revisions"),
        ("before", "aaaab", "before is a store or a published table, and 'aaaab' is neither"),
    ):
        assert main(["compare", a, b, *common]) == 2
        assert words in capsys.readouterr().err


def test_two_optimizers_of_one_store(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = [run("sgdm", seed, score, lr=lr) for lr in (0.1, 0.5) for seed, score in enumerate((70.0, 71.0, 69.5))]
    put(stores / "many", *runs(), *wide)
    common = ["--store", "many"]
    assert main(["compare", "kfac", "sgdm:lr=0.5,fp32", *common]) == 1
    assert "kfac → sgdm (lr=0.5) fp32" in capsys.readouterr().out
    assert main(["compare", "sgdm:lr=0.5", "kfac", *common]) == 0
    capsys.readouterr()
    assert main(["compare", "kfac", "sgdm:constant", *common]) == 3
    assert "may be any of" in capsys.readouterr().out
    assert main(["compare", "kfac", "kfac", *common]) == 2
    assert main(["compare", "kfac", "sgdm:stepp", *common]) == 2
    assert "did you mean 'step'?" in capsys.readouterr().err
    assert main(["compare", "kfca", "sgdm", *common]) == 2
    assert "did you mean 'kfac'?" in capsys.readouterr().err
    assert main(["compare", "kfac", "sgdm", "--store", "nowhere"]) == 2


def test_nothing_in_common(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(stores / "other", run("lion"))
    assert main(["compare", "before", "other"]) == 3
    assert "Nothing can be compared" in capsys.readouterr().out


def test_a_report_at_another_machines_prices(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = put(stores / "runs", *(record.under(suite="classification") for record in (run("x"), run("kfac"))))
    probe = flat(8.0)
    there = msgspec.structs.replace(probe, environment=msgspec.structs.replace(probe.environment, device_name="card"))
    Store(stores / "there", create=True).keep_probe(there)
    (record,) = (stores / "there" / "probes").glob("*.json")
    report = ["report", "--suite", "classification", "--store", str(store), "--price-on"]
    pages = []
    for place in ("there", str(record)):
        assert main([*report, place]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    head, _, body = pages[0].partition("\n## ")
    assert "times are priced on card, 1 thread" in head
    assert "without a probe of that machine, and so without times: t kfac fp32" in head
    assert "8.0" in body
    assert "- cpu name, 1 threads" in body
    (stores / "none.json").write_bytes(encode(run("x")))
    for place, words in (
        ("none.json", "is no record of a probe"),
        ("before", "no probes in before"),
        ("gone", "No such"),
    ):
        assert main([*report, place]) == 2
        assert words in capsys.readouterr().err
    assert main([*report, "there", "--price-on", str(put_probe(stores / "here"))]) == 2
    assert "several machines" in capsys.readouterr().err


def put_probe(folder: Path) -> Path:
    Store(folder, create=True).keep_probe(flat())
    return folder
