"""Models have the published sizes and run in every precision (test_precision.py)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from apo_bench.models.alexnet import alexnet
from apo_bench.models.lenet import lenet
from apo_bench.models.mlp import autoencoder, mlp
from apo_bench.models.resnet import resnet18, resnet32, resnet34
from apo_bench.models.vgg import vgg16
from apo_bench.models.wide_resnet import wide_resnet

CIFAR10 = {"in_channels": 3, "classes": 10}


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lenet, {"image_size": 32}, 62_006),  # 456 + 2416 + 48120 + 10164 + 850
        (alexnet, {"image_size": 32}, 2_472_266),
        (vgg16, {"image_size": 32}, 14_719_818),  # the 14,714,688 of VGG16's convolutions (torchvision) + 5130
        (resnet18, {}, 11_173_962),
        (resnet34, {}, 21_282_122),
        (resnet32, {}, 464_154),  # He et al., 2016, table 6: 0.46 million
        (wide_resnet, {}, 36_479_194),  # Zagoruyko and Komodakis, 2016: 36.5 million
    ],
)
def test_parameter_counts_on_cifar10(make: Callable[..., nn.Module], shape: dict[str, Any], count: int) -> None:
    model = make(**CIFAR10, **shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_lenet_on_28_pixels_has_the_classic_size() -> None:
    model = lenet(in_channels=1, image_size=28, classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_706


@pytest.mark.parametrize("make", [lenet, alexnet, vgg16])
def test_images_of_28_pixels_are_padded_to_32(make: Callable[..., nn.Module]) -> None:
    """The network for 28 pixels is the one for 32 on zero-padded images."""
    torch.manual_seed(0)
    small = make(in_channels=1, classes=10, image_size=28)
    large = make(in_channels=1, classes=10, image_size=32)
    large.load_state_dict(small.state_dict())
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(small(images), large(nn.functional.pad(images, (2,) * 4)))
    with pytest.raises(ValueError, match="28 or 32 pixels, not 30"):
        make(in_channels=1, classes=10, image_size=30)


def test_vgg16_convolutions_are_torchvisions() -> None:
    from torchvision.models import vgg16 as reference

    torch.manual_seed(0)
    ours, theirs = vgg16(in_channels=3, image_size=32, classes=10), reference()
    ours_convolutions = [module for module in ours if isinstance(module, nn.Conv2d)]
    their_convolutions = [module for module in theirs.features if isinstance(module, nn.Conv2d)]
    for one, other in zip(ours_convolutions, their_convolutions, strict=True):
        one.load_state_dict(other.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours[:-2](images), theirs.features(images))


@pytest.mark.parametrize(("make", "name"), [(resnet18, "resnet18"), (resnet34, "resnet34")])
def test_resnets_are_torchvisions_but_for_the_stem(make: Callable[..., nn.Module], name: str) -> None:
    import torchvision.models

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = make(**CIFAR10)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


def test_fully_connected_networks_have_the_sizes_of_the_papers() -> None:
    perceptron = mlp([784, 1000, 1000, 10])
    assert sum(parameter.numel() for parameter in perceptron.parameters()) == 1_796_010
    assert perceptron(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    deep = autoencoder()
    assert sum(parameter.numel() for parameter in deep.parameters()) == 2_837_314
    assert deep(torch.zeros(2, 1, 28, 28)).shape == (2, 784)
    assert [type(module).__name__ for module in deep].count("Sigmoid") == 6  # the code and the pixels' logits have none
    assert [type(module).__name__ for module in deep].count("Linear") == 8
    with pytest.raises(ValueError, match="at least an input and an output size"):
        mlp([3])


def test_a_shortcut_without_parameters_subsamples_and_pads() -> None:
    block = resnet32(**CIFAR10)[8]
    x = torch.randn(2, 16, 8, 8)
    out = block.shortcut(x)  # type: ignore[operator] # torch types submodules loosely
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert not out[:, 16:].any()


def test_wide_residual_networks_have_the_depths_they_can_have() -> None:
    small = wide_resnet(in_channels=1, classes=10, depth=10, widening=1)
    convolutions = [
        module for module in small.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 7
    with pytest.raises(ValueError, match="not 12"):
        wide_resnet(in_channels=1, classes=10, depth=12)
