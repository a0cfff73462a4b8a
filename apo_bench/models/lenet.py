"""LeNet-5 in its common modern form (LeCun et al., 1998; ReLU, max pooling, no partial connections)."""

from torch import nn


def lenet(*, in_channels: int, image_size: int, classes: int) -> nn.Sequential:
    """Two convolutions and three linear layers.

    62,006 parameters for CIFAR-10 (3 channels, 32 × 32), 61,706 for 28 × 28 gray images, which the first
    convolution pads to 32 × 32 as LeCun et al. did.

    Raises:
        ValueError: The image is neither 28 nor 32 pixels wide.
    """
    paddings = {28: 2, 32: 0}
    if image_size not in paddings:
        raise ValueError(f"LeNet takes images of 28 or 32 pixels, not {image_size}")
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=paddings[image_size]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
