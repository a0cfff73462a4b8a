"""Residual networks for small images (He et al., 2016): a 3 × 3 stem, no initial pooling."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch normalization, and a shortcut (figure 2).

    Where shapes change the shortcut is a projection (option B of section 3.3), or without ``projection`` takes every
    ``stride``-th pixel and fills further channels with zeros (option A, which has no parameters).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, projection: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = (
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
                if projection
                else _Padded(out_channels - in_channels, stride)
            )
        self.relu = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map ``(batch, in, height, width)`` to ``(batch, out, height / stride, width / stride)``."""
        residual = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x_BCHW)))))
        out: Tensor = self.relu(residual + self.shortcut(x_BCHW))
        return out


class _Padded(nn.Module):
    """Every ``stride``-th pixel, and ``more`` channels of zeros."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def resnet18(*, in_channels: int, classes: int, width: int = 64) -> nn.Sequential:
    """ResNet-18: four stages of two blocks, ``width`` to ``8 · width`` channels.

    11,173,962 parameters at width 64 for CIFAR-10.
    """
    return _resnet((2, 2, 2, 2), in_channels, classes, width, projection=True)


def resnet34(*, in_channels: int, classes: int, width: int = 64) -> nn.Sequential:
    """ResNet-34: four stages of 3, 4, 6 and 3 blocks, ``width`` to ``8 · width`` channels.

    21,282,122 parameters at width 64 for CIFAR-10.
    """
    return _resnet((3, 4, 6, 3), in_channels, classes, width, projection=True)


def resnet32(*, in_channels: int, classes: int, width: int = 16) -> nn.Sequential:
    """ResNet-32 of section 4.2: three stages of five blocks, ``width`` to ``4 · width`` channels, option A.

    464,154 parameters at width 16 for CIFAR-10 (table 6: 0.46 million).
    """
    return _resnet((5, 5, 5), in_channels, classes, width, projection=False)


def _resnet(stages: tuple[int, ...], in_channels: int, classes: int, width: int, *, projection: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            out_channels = width * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(channels, out_channels, stride, projection=projection))
            channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
