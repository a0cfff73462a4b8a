"""Wide residual networks for small images (Zagoruyko and Komodakis, 2016)."""

from torch import Tensor, nn

_FIXED = 4
"""Convolutions outside the residual branches: the stem and three projections. The depth counts convolutions."""
_PER_BLOCK = 6
"""Convolutions that one more block in each of three stages adds."""


class PreActivationBlock(nn.Module):
    """Batch normalization and ReLU before each of two 3 × 3 convolutions (block type B(3, 3)).

    Where shapes change, the shortcut is a projection of the activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.projection: nn.Module | None = None
        if in_channels != out_channels or stride != 1:
            self.projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map ``(batch, in, height, width)`` to ``(batch, out, height / stride, width / stride)``."""
        active = self.relu(self.norm1(x_BCHW))
        residual = self.conv2(self.dropout(self.relu(self.norm2(self.conv1(active)))))
        out: Tensor = residual + (x_BCHW if self.projection is None else self.projection(active))
        return out


def wide_resnet(
    *, in_channels: int, classes: int, depth: int = 28, widening: int = 10, dropout: float = 0.0
) -> nn.Sequential:
    """WRN-depth-widening: three stages of (depth − 4) / 6 blocks, with 16, 32 and 64 times ``widening`` channels.

    WRN-28-10 has 36,479,194 parameters for CIFAR-10 (published as 36.5 million). Convolutions start as in He et al.
    (2015, equation 10), as in the authors' code.

    Raises:
        ValueError: No number of blocks gives that depth.
    """
    blocks, rest = divmod(depth - _FIXED, _PER_BLOCK)
    if rest or blocks < 1:
        raise ValueError(f"a wide residual network has 10, 16, 22, 28, ... layers, not {depth}")
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)]
    channels = 16
    for stage in range(3):
        out_channels = 16 * 2**stage * widening
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(PreActivationBlock(channels, out_channels, stride, dropout))
            channels = out_channels
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(channels, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model
