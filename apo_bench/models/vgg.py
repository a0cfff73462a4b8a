"""VGG for small images (Simonyan and Zisserman, 2015, configuration D): thirteen 3 × 3 convolutions, one classifier."""

from torch import nn

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each convolution as multiples of the width; a pooling after each stage."""


def vgg16(*, in_channels: int, image_size: int, classes: int, width: int = 64) -> nn.Sequential:
    """VGG16 without batch normalization, ``width`` to ``8 · width`` channels.

    14,719,818 parameters at width 64 for CIFAR-10. Convolutions start as in He et al. (2015, equation 10), without
    which thirteen layers do not begin to learn. Images of 28 pixels are padded to 32.

    Raises:
        ValueError: The image is neither 28 nor 32 pixels wide.
    """
    paddings = {28: 3, 32: 1}
    if image_size not in paddings:
        raise ValueError(f"VGG16 takes images of 28 or 32 pixels, not {image_size}")
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in _STAGES:
        for multiple in stage:
            padding = 1 if layers else paddings[image_size]
            convolution = nn.Conv2d(channels, multiple * width, 3, padding=padding)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU()]
            channels = multiple * width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))
