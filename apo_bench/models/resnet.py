"""Residual networks for small images (He et al., 2016): a 3 × 3 stem, no initial pooling."""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch normalization, and a shortcut: a projection where shapes change (figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map ``(batch, in, height, width)`` to ``(batch, out, height / stride, width / stride)``."""
        residual = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x_BCHW)))))
        out: Tensor = self.relu(residual + self.shortcut(x_BCHW))
        return out


def resnet18(*, in_channels: int, classes: int, width: int = 64) -> nn.Sequential:
    """ResNet-18 for images of about 32 × 32: four stages of two blocks, ``width`` to ``8 · width`` channels.

    11,173,962 parameters at width 64 for CIFAR-10.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage in range(4):
        out_channels = width * 2**stage
        layers += [
            BasicBlock(channels, out_channels, stride=1 if stage == 0 else 2),
            BasicBlock(out_channels, out_channels, stride=1),
        ]
        channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
