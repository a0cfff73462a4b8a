"""Targets are frozen, and every task says where it comes from."""

import re

from apo_bench.plugins.registry import tasks

TARGETS = {
    "fashion-mnist-20k.alexnet-w16": (83.0, 1),
    "fashion-mnist-20k.lenet": (85.0, 1),
    "fashion-mnist-20k.lenet-augmented": (87.0, 1),
    "fashion-mnist-20k.resnet18-w8": (82.0, 1),
    "fashion-mnist-20k.resnet18-w8-augmented": (88.0, 1),
    "fashion-mnist-20k.vgg16-w8": (80.0, 1),
}
"""Frozen: a value may change only with its version, and then results before and after are not compared."""


def test_targets_are_frozen() -> None:
    declared = {name: tasks()[name].load()().target for name in tasks().names()}
    found = {name: (target.validation, target.version) for name, target in declared.items() if target is not None}
    assert found == TARGETS


def test_every_task_says_where_it_comes_from() -> None:
    for name in tasks().names():
        assert re.match(r"\[[PARL]\]", tasks()[name].load()().source), name
