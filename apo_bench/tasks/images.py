"""Image classification tasks."""

import functools

from apo_bench.data.fashion_mnist import FASHION_MNIST_20K
from apo_bench.models.lenet import lenet
from apo_bench.models.resnet import resnet18
from apo_bench.tasks.task import Task
from apo_bench.training.objectives import Accuracy, CrossEntropy

_BATCH_SIZE = 128


def fashion_mnist_20k_lenet() -> Task:
    """LeNet on Fashion-MNIST-20k."""
    return Task(
        dataset=FASHION_MNIST_20K,
        model_name="lenet",
        model=functools.partial(lenet, in_channels=1, image_size=28, classes=10),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=_BATCH_SIZE,
        channels_last=True,
        reference_epoch_seconds=1.4,
    )


def fashion_mnist_20k_resnet18_w8() -> Task:
    """ResNet-18 with an eighth of its width on Fashion-MNIST-20k."""
    return Task(
        dataset=FASHION_MNIST_20K,
        model_name="resnet18-w8",
        model=functools.partial(resnet18, in_channels=1, classes=10, width=8),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=_BATCH_SIZE,
        channels_last=True,
        reference_epoch_seconds=14.0,
    )
