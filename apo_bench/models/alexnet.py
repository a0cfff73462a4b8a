"""AlexNet for small images: the five convolutions of Krizhevsky et al. (2012) with one linear classifier."""

from torch import nn


def alexnet(*, in_channels: int, image_size: int, classes: int, width: int = 64) -> nn.Sequential:
    """Five convolutions and one linear layer, ``width`` to ``6 · width`` channels.

    The usual form for CIFAR (first convolution 11 × 11 with stride 4, three poolings down to one pixel): 2,472,266
    parameters at width 64 for CIFAR-10. Images of 28 pixels are padded to 32.

    Raises:
        ValueError: The image is neither 28 nor 32 pixels wide.
    """
    paddings = {28: 7, 32: 5}
    if image_size not in paddings:
        raise ValueError(f"AlexNet takes images of 28 or 32 pixels, not {image_size}")
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 11, stride=4, padding=paddings[image_size]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 3 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3 * width, 6 * width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
