"""`apo-bench run`: runs, their outcomes, and their reuse."""

import pytest
from support.commands import PLUG, TINY, records_in, store_of
from support.shell import Shell, optimizer_plugin


def test_a_run_ends_with_a_leaderboard_and_the_same_command_reuses_it(tiny_shell: Shell) -> None:
    first = tiny_shell(*TINY)
    assert "8 of 8 runs to be made" in first.stdout
    assert "8 of 8 runs have a result" in first.stdout
    assert first.stdout.count(" after 2 epochs, ") == 8  # the last point of each curve was seen
    assert len(records_in(tiny_shell)) == 8
    page = (store_of(tiny_shell) / "leaderboards" / "classification-smoke.md").read_text(encoding="utf-8")
    assert "| sgdm" in page
    assert "fp16 (emulated)" in page

    second = tiny_shell(*TINY)
    assert "0 of 8 runs to be made" in second.stdout
    assert len(records_in(tiny_shell)) == 8
    report = tiny_shell("report", "--suite", "classification").stdout
    assert report.strip() == page.replace("8 of 8 runs", "8 runs").strip()


@pytest.mark.slow
def test_more_seeds_run_only_what_is_missing(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
    more = tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32", "--seeds", "0-2")
    assert "2 of 3 runs to be made" in more.stdout
    assert "±" in more.stdout


@pytest.mark.slow
def test_settings_from_the_command_line_are_rows_of_their_own(tiny_shell: Shell) -> None:
    one = (*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
    tiny_shell(*one, "--set", "sgdm.lr=0.1")
    tiny_shell(*one, "--set", "sgdm.lr=1", "--set", "sgdm.weight_decay=0.001")
    assert [record["intent"]["spec"]["optimizer"]["hyperparameters"]["lr"] for record in records_in(tiny_shell)].count(
        1.0
    ) == 1
    page = tiny_shell("report", "--suite", "classification").stdout
    assert "sgdm (lr=0.1, weight\\_decay=0.0005)" in page
    assert "sgdm (lr=1.0, weight\\_decay=0.001)" in page


def test_an_edited_plugin_runs_again_and_says_why(tiny_shell: Shell) -> None:
    module = tiny_shell.install("plug", optimizer_plugin(["pass"]), PLUG)
    command = (*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32")
    tiny_shell(*command)
    module.write_text(module.read_text(encoding="utf-8") + "EDITED = 1\n", encoding="utf-8")
    again = tiny_shell(*command)
    assert "1 of 2 runs to be made" in again.stdout
    assert "running plug on tiny again, because these changed: optimizer" in again.stdout
    assert len(records_in(tiny_shell)) == 3


@pytest.mark.slow
def test_a_plugin_that_fails_to_import_is_one_line_and_hurts_no_other(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", "raise RuntimeError('boom')\n", PLUG)
    assert "plug" in tiny_shell("list", "optimizers").stdout
    done = tiny_shell(*TINY, "--optimizers", "plug", status=2)
    assert done.stderr == (
        "apo-bench: 'plug' from plug 1.0 fails to import (RuntimeError: boom); fix or uninstall that distribution\n"
    )
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (["raise ValueError('no such luck')"], "failed", "ValueError: no such luck"),
        (["os.kill(os.getpid(), signal.SIGSEGV)"], "crashed", "the run's process was killed by SIGSEGV"),
        (["os._exit(3)"], "crashed", "the run's process ended with exit status 3"),
        (["raise torch.OutOfMemoryError('CUDA out of memory')"], "out-of-memory", "CUDA out of memory"),
        (["torch.empty(2**50)"], "out-of-memory", "can't allocate memory"),
    ],
)
def test_a_run_that_dies_gets_a_typed_outcome_and_the_rest_goes_on(
    tiny_shell: Shell, body: list[str], kind: str, message: str
) -> None:
    tiny_shell.install("plug", optimizer_plugin([f"if self.steps == 20: {line}" for line in body]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug,sgd", "--precisions", "fp32", status=1)
    outcomes = {record["intent"]["spec"]["optimizer"]["name"]: record["outcome"] for record in records_in(tiny_shell)}
    assert outcomes["plug"]["type"] == kind
    assert message in outcomes["plug"]["message"]
    assert outcomes["sgd"]["type"] == "exhausted"
    if kind == "failed":
        named = done.stderr.partition("; see ")[2].partition(";")[0]
        assert "Traceback (most recent call last)" in (tiny_shell.folder / named).read_text(encoding="utf-8")
    assert "1 of 2 runs have a result; 1 failed." in done.stdout
    assert "the same command tries them again" in done.stderr
    assert (
        "1 of 2 runs to be made"
        in tiny_shell(*TINY, "--optimizers", "plug,sgd", "--precisions", "fp32", "--plan").stdout
    )


def test_divergence_is_a_result(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["if self.steps == 20: self.scale_learning_rate(1e30)"]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32")
    assert "diverged 1 of 1" in done.stdout
    assert "0 of 2 runs to be made" in tiny_shell(*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32").stdout


def test_a_damaged_record_is_reported_and_made_again(tiny_shell: Shell) -> None:
    command = (*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    tiny_shell(*command)
    (path,) = store_of(tiny_shell).glob("runs/*/record.json")
    path.write_bytes(path.read_bytes()[:50])
    done = tiny_shell(*command)
    assert "damaged record set aside" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "1 of 1 runs to be made" in done.stdout
    assert len(records_in(tiny_shell)) == 1


@pytest.mark.slow
def test_workers_run_side_by_side(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.1)"]), PLUG)
    done = tiny_shell(
        *TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-3", "--workers", "4", "--threads", "1"
    )
    assert "4 of 4 runs have a result" in done.stdout
    records = records_in(tiny_shell)
    assert max(str(record["started_at"]) for record in records) < min(str(record["finished_at"]) for record in records)
    assert {record["environment"]["co_scheduled"] for record in records} == {3}
    assert {record["environment"]["packages"]["plug"] for record in records} == {"1.0"}


def test_more_workers_than_runs_count_as_no_company(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32", "--workers", "4", "--threads", "1")
    (record,) = records_in(tiny_shell)
    assert record["environment"]["co_scheduled"] == 0


def test_output_of_a_run_goes_to_its_own_file(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["if self.steps == 1: os.system('echo from below')"]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug", "--precisions", "fp32")
    assert "from below" not in done.stdout + done.stderr
    (log,) = store_of(tiny_shell).glob("runs/*/output.log")
    assert log.read_text(encoding="utf-8") == "from below\n"


@pytest.mark.slow
def test_a_result_of_earlier_code_does_not_stand_in_for_a_failure(tiny_shell: Shell) -> None:
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32")
    tiny_shell.install("plug", optimizer_plugin(["pass"]), PLUG)
    tiny_shell(*command)
    tiny_shell.install("plug", optimizer_plugin(["raise ValueError('edited')"]), PLUG)
    done = tiny_shell(*command, status=1)
    assert (
        "1 runs failed, the first: tiny plug fp32 seed 0: the optimizer failed at step 1: ValueError: edited"
        in done.stderr
    )
    assert "0 of 1 runs have a result" in done.stdout


@pytest.mark.slow
def test_runs_that_two_suites_share_are_in_the_pages_of_both(tiny_shell: Shell) -> None:
    selection = ("--scale", "smoke", "--tasks", "tiny", "--epochs", "2", "--optimizers", "sgdm", "--precisions", "fp32")
    tiny_shell("run", "--suite", "classification", *selection)
    assert "0 of 1 runs to be made" in tiny_shell("run", "--suite", "low-precision", *selection).stdout
    pages = [tiny_shell("report", "--suite", name).stdout for name in ("classification", "low-precision")]
    assert pages[1] == pages[0].replace("classification", "low-precision")
    exported = tiny_shell("export", "--suite", "low-precision").stdout.splitlines()
    assert len(exported) == 2
    assert exported[1].split(",")[1] == "low-precision"
