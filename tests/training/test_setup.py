"""What a run's training is given does not change."""

import dataclasses

import pytest
from support.devices import CPU
from support.runs import TASK, run_spec

from apo_bench.plugins.registry import optimizers
from apo_bench.training.trainer import prepare


def test_no_field_can_be_replaced_in_place() -> None:
    setup = prepare(run_spec("sgdm"), TASK, optimizers()["sgdm"].load(), CPU).setup
    for field in dataclasses.fields(setup):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(setup, field.name, None)


def test_steps_follow_from_the_budget_and_the_task() -> None:
    task = dataclasses.replace(TASK, evaluation_interval=2)
    setup = prepare(run_spec("sgdm", epochs=3), task, optimizers()["sgdm"].load(), CPU).setup
    assert (setup.total_steps, setup.steps_between_evaluations) == (30, 20)
