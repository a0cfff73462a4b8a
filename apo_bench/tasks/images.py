"""Image classification: every task is a dataset and a network; convolutional ones by batches of 128.

The targets are validation accuracies that most competitors of the classification suite reached within its local budget
(``reports/classification-local/runs.csv``), rounded down. They are frozen: another value is another version. Where
nothing has been run yet, as on CIFAR, there is none.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from apo_bench.data.batches import Augmentation, crop_and_flip
from apo_bench.data.cifar import CIFAR10_DATA, CIFAR100_DATA
from apo_bench.data.examples import Dataset
from apo_bench.data.fashion_mnist import FASHION_MNIST_20K
from apo_bench.data.mnist import MNIST
from apo_bench.models.alexnet import alexnet
from apo_bench.models.lenet import lenet
from apo_bench.models.mlp import mlp
from apo_bench.models.resnet import resnet18, resnet32, resnet34
from apo_bench.models.vgg import vgg16
from apo_bench.models.wide_resnet import wide_resnet
from apo_bench.plugins.metrics import Accuracy
from apo_bench.plugins.task import Target, Task
from apo_bench.problem.objectives import CrossEntropy


def _task(
    dataset: Dataset,
    name: str,
    make: Callable[..., nn.Module],
    *,
    classes: int,
    augmentation: Augmentation | None = None,
    source: str,
    batch: int = 128,
    channels_last: bool = True,
    epoch_seconds: float | None = None,
    target: float | None = None,
    **shape: Any,
) -> Task:
    return Task(
        dataset=dataset,
        model_name=name,
        model=functools.partial(make, classes=classes, **shape),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=batch,
        augmentation=augmentation,
        channels_last=channels_last,
        reference_epoch_seconds=epoch_seconds,
        target=None if target is None else Target(validation=target),
        source=source,
        trivial=100.0 / classes,
    )


_fashion = functools.partial(_task, FASHION_MNIST_20K, in_channels=1, classes=10, source="[L] E4")
_augmented = functools.partial(_fashion, augmentation=crop_and_flip(2), source="[L] E4, E8")
_cifar10 = functools.partial(_task, CIFAR10_DATA, in_channels=3, classes=10, augmentation=crop_and_flip(4))
_cifar100 = functools.partial(_task, CIFAR100_DATA, in_channels=3, classes=100, augmentation=crop_and_flip(4))


def fashion_mnist_20k_lenet() -> Task:
    """LeNet on Fashion-MNIST-20k."""
    return _fashion("lenet", lenet, image_size=28, epoch_seconds=1.4, target=85.0)


def fashion_mnist_20k_alexnet_w16() -> Task:
    """AlexNet with a quarter of its width on Fashion-MNIST-20k."""
    return _fashion("alexnet-w16", alexnet, image_size=28, width=16, epoch_seconds=1.6, target=83.0)


def fashion_mnist_20k_vgg16_w8() -> Task:
    """VGG16 with an eighth of its width on Fashion-MNIST-20k."""
    return _fashion("vgg16-w8", vgg16, image_size=28, width=8, epoch_seconds=6.0, target=80.0)


def fashion_mnist_20k_resnet18_w8() -> Task:
    """ResNet-18 with an eighth of its width on Fashion-MNIST-20k."""
    return _fashion("resnet18-w8", resnet18, width=8, epoch_seconds=13.0, target=82.0)


def fashion_mnist_20k_lenet_augmented() -> Task:
    """LeNet on Fashion-MNIST-20k, randomly cropped and flipped."""
    return _augmented("lenet", lenet, image_size=28, epoch_seconds=1.6, target=87.0)


def fashion_mnist_20k_resnet18_w8_augmented() -> Task:
    """ResNet-18 with an eighth of its width on Fashion-MNIST-20k, randomly cropped and flipped."""
    return _augmented("resnet18-w8", resnet18, width=8, epoch_seconds=13.0, target=88.0)


def fashion_mnist_20k_resnet18_augmented() -> Task:
    """ResNet-18 on Fashion-MNIST-20k, randomly cropped and flipped."""
    return _augmented("resnet18", resnet18)


def cifar10_lenet() -> Task:
    """LeNet on CIFAR-10."""
    return _cifar10("lenet", lenet, image_size=32, source="[P] E4, E6")


def cifar10_alexnet() -> Task:
    """AlexNet on CIFAR-10."""
    return _cifar10("alexnet", alexnet, image_size=32, source="[P] E4")


def cifar10_vgg16() -> Task:
    """VGG16 on CIFAR-10."""
    return _cifar10("vgg16", vgg16, image_size=32, source="[P] E4")


def cifar10_resnet18() -> Task:
    """ResNet-18 on CIFAR-10."""
    return _cifar10("resnet18", resnet18, source="[P] E4, E6")


def cifar10_resnet32() -> Task:
    """ResNet-32 on CIFAR-10."""
    return _cifar10("resnet32", resnet32, source="[R] E8")


def cifar10_resnet34() -> Task:
    """ResNet-34 on CIFAR-10."""
    return _cifar10("resnet34", resnet34, source="[R] E8")


def cifar10_wrn_28_10() -> Task:
    """WRN-28-10 on CIFAR-10."""
    return _cifar10("wrn-28-10", wide_resnet, source="[P] E8")


def cifar100_alexnet() -> Task:
    """AlexNet on CIFAR-100."""
    return _cifar100("alexnet", alexnet, image_size=32, source="[P] E4")


def cifar100_vgg16() -> Task:
    """VGG16 on CIFAR-100."""
    return _cifar100("vgg16", vgg16, image_size=32, source="[P] E4")


def cifar100_resnet18() -> Task:
    """ResNet-18 on CIFAR-100."""
    return _cifar100("resnet18", resnet18, source="[P] E4, E6")


def cifar100_wrn_28_10() -> Task:
    """WRN-28-10 on CIFAR-100."""
    return _cifar100("wrn-28-10", wide_resnet, source="[R] E8")


def _mlp_1000(classes: int) -> nn.Sequential:
    return mlp([784, 1000, 1000, classes])


_mlp = functools.partial(_task, name="mlp-1000", make=_mlp_1000, classes=10, batch=100, channels_last=False)


def mnist_mlp() -> Task:
    """MLP with two hidden layers of 1,000 rectified linear units on MNIST, by batches of 100."""
    return _mlp(MNIST, source="[R] E7")


def fashion_mnist_20k_mlp() -> Task:
    """MLP with two hidden layers of 1,000 rectified linear units on Fashion-MNIST-20k, by batches of 100."""
    return _mlp(FASHION_MNIST_20K, source="[L] E7", epoch_seconds=3.9)
