"""`apo-bench export`: one row a run in every format."""

from support.commands import TINY, records_in
from support.shell import Shell


def test_export_has_one_row_a_run_in_every_format(tiny_shell: Shell) -> None:
    import pandas as pd

    tiny_shell(*TINY, "--optimizers", "sgd,sgdm")
    for name in ("runs.csv", "runs.jsonl", "runs.parquet"):
        assert tiny_shell("export", "--output", name).stdout == f"{name}: 4 runs\n"
    frames = [
        pd.read_csv(tiny_shell.folder / "runs.csv"),
        pd.read_json(tiny_shell.folder / "runs.jsonl", lines=True),
        pd.read_parquet(tiny_shell.folder / "runs.parquet"),
    ]
    by_id = {record["intent"]["spec"]["seed"]: record for record in records_in(tiny_shell)}
    assert len(by_id) == 1
    scores = sorted(record["scores"]["test"] for record in records_in(tiny_shell))
    for frame in frames:
        assert list(frame.columns) == list(frames[0].columns)
        assert sorted(frame["value"]) == scores
        assert set(frame["precision_backend"]) == {"native", "emulated"}
        assert frame["step_ratio"].isna().all()  # not measured, so missing
    assert tiny_shell("export").stdout == (tiny_shell.folder / "runs.csv").read_text(encoding="utf-8")
    assert "name a file with --output" in tiny_shell("export", "--format", "parquet", status=2).stderr
    assert "did you mean 'parquet'" in tiny_shell("export", "--format", "parket", status=2).stderr
    assert "cannot tell the format of runs.txt" in tiny_shell("export", "--output", "runs.txt", status=2).stderr
