"""`apo-bench list`: what there is to run."""

import json

from support.shell import Shell


def test_list_json_and_long(tiny_shell: Shell) -> None:
    listed = json.loads(tiny_shell("list", "--json").stdout)
    assert set(listed) == {"suites", "tasks", "optimizers", "precisions"}
    assert {"name": "tiny", "from": "tiny_task 1.0"} in listed["tasks"]
    long = tiny_shell("list", "--long").stdout
    assert "lr=0.0401 [0.0001..0.3 log]" in long
    assert all(len(line) <= 120 for line in long.splitlines())  # however wide the terminal is
    assert "61.7 k" in next(line for line in long.splitlines() if line.startswith("fashion-mnist-20k.lenet"))
    tiny = next(line for line in long.splitlines() if line.startswith("tiny "))
    assert tiny.split()[2:4] == ["–", "accuracy"]  # the number of examples is not stated


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


def test_list_shows_everything_of_one_task_optimizer_or_suite(tiny_shell: Shell) -> None:
    text = tiny_shell("list", "fashion-mnist-20k.lenet").stdout
    assert "    parameters: 61,706\n" in text
    assert "suites: classification: smoke 1 epoch, local 5 epochs" in text
    assert "examples: not stated" in tiny_shell("list", "tiny").stdout
    assert "reference: Polyak, 1964" in tiny_shell("list", "sgdm").stdout
    assert "scale smoke: concrete" not in tiny_shell("list", "classification").stdout
    (sgdm,) = json.loads(tiny_shell("list", "sgdm", "--json").stdout)
    assert sgdm["hyperparameters"].startswith("lr=0.0401")
