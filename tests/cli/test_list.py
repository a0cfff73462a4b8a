"""`apo-bench list`: what there is to run."""

import json

from support.shell import Shell


def test_list_json_and_long(tiny_shell: Shell) -> None:
    listed = json.loads(tiny_shell("list", "--json").stdout)
    assert set(listed) == {"suites", "tasks", "optimizers", "precisions"}
    assert {"name": "tiny", "from": "tiny_task 1.0"} in listed["tasks"]
    long = tiny_shell("list", "--long").stdout
    assert "parameters: 61,706" in long
    assert "lr=0.0401 [0.0001..0.3 log]" in long


def test_list_long_shows_what_a_task_declares(moon_shell: Shell) -> None:
    (moon,) = (
        row
        for row in json.loads(moon_shell("list", "tasks", "--long", "--json").stdout)["tasks"]
        if row["name"] == "moon"
    )
    assert moon == {
        "name": "moon",
        "from": "moon_task 1.0",
        "about": "A task whose data cannot be had.",
        "suites": "none; give it a budget with --epochs",
        "data": "moon",
        "examples": "train 512 / validation 20 / test 30",
        "model": "linear",
        "parameters": "18",
        "batch size": "32",
        "metric": "accuracy (%), maximize",
        "target": "none yet",
        "source": "[L] a test",
        "trivial predictor": "50",
    }
    text = moon_shell("list", "tasks", "--long").stdout
    assert "parameters: 61,706" in text
    assert "suites: classification: smoke 1 epochs, local 5 epochs" in text
    assert "examples: not stated" in text  # tiny
