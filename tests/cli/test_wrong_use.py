"""A usage error is one line that says how to fix it."""

import pytest
from support.commands import TINY
from support.shell import Shell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--suite", "clasification"], "unknown suite 'clasification'; did you mean 'classification'?"),
        (["run", "--suite", "classification", "--optimizers", "adamm"], "unknown optimizer 'adamm'; did you mean 'adam'?"),
        (
            ["run", "--suite", "classification", "--tasks", "fashion-mnist-20k.lnet"],
            "unknown task 'fashion-mnist-20k.lnet'; did you mean 'fashion-mnist-20k.lenet'?",
        ),
        (["run", "--suite", "classification", "--precisions", "pf16"], "unknown precision 'pf16'; did you mean 'fp16'?"),
        (["run", "--suite", "classification", "--device", "cudda"], "unknown device 'cudda'; did you mean 'cuda'?"),
        (["run", "--suite", "classification", "--scale", "locl"], "unknown scale 'locl'; did you mean 'local'?"),
        (["run", "--suite", "classification", "--seeds", "0,x"], "--seeds '0,x' is not a list of seeds; write for example 0,1,2 or 0-4"),
        (["run", "--suite", "classification", "--seeds", "3-1"], "--seeds '3-1' is not a list of seeds"),
        (["run", "--suite", "classification", "--set", "sgdm.lr"], "invalid --set 'sgdm.lr'; expected OPTIMIZER.FIELD=VALUE, for example sgdm.lr=0.1"),
        (["run", "--suite", "classification", "--set", "sdgm.lr=1"], "unknown optimizer in --set 'sdgm'; did you mean 'sgdm'?"),
        (["run", "--suite", "classification", "--epochs", "0"], "--epochs must be a number above 0 (got 0)"),
        (["run", "--suite", "classification", "--epochs", "nan"], "--epochs must be a number above 0 (got nan)"),
        (["run", "--suite", "classification", "--epochs", "1e300"], "--epochs must be at most 1e+09 (got 1e+300)"),
        (["run", "--suite", "classification", "--set", "sgdm.lr=inf"], "sgdm.lr must be a value that a record can hold (got inf"),
        (["run", "--suite", "classification", "--set", "sgdm.lr=1e999"], "sgdm.lr must be a value that a record can hold (got inf"),
        (["run", "--suite", "classification", "--workers", "0"], "--workers must be at least 1 (got 0)"),
        (["run", "--suite", "classification", "--tasks", "tiny"], "task 'tiny' is not part of suite 'classification'; give it a budget with --epochs"),
        (["run", "--suite", "classification", "--store", "file/x"], "cannot write to file/x (Not a directory); name another folder with --store"),
        (["report", "--suite", "classification"], "no results at apo-bench-results; run a suite first"),
        (["list", "task"], "cannot list 'task'; did you mean 'tasks'?"),
        (["lst"], "invalid choice: 'lst'"),
        (["run"], "the following arguments are required: --suite; see apo-bench run --help"),
        (["run", "--suite", "classification", "--workers", "two"], "--workers must be a whole number (got 'two'); expected a whole number from 1 to 1024"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_with_how_to_fix_it(tiny_shell: Shell, arguments: list[str], message: str) -> None:
    (tiny_shell.folder / "file").write_text("", encoding="utf-8")
    done = tiny_shell(*arguments, status=2)
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_cuda_that_is_not_there_is_one_line(tiny_shell: Shell) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = tiny_shell(*TINY, "--device", "cuda", status=2)
    assert done.stderr == ("apo-bench: device 'cuda' is not available: torch finds no CUDA device; use --device cpu\n")
