"""A plain CNN, and shortcuts that make it skippable: E2-Train's answer for networks that have none."""

import torch
from torch import nn
from torch.nn import functional

from ..blocks import Residual

POOL = 0
#: VGG-11 (Simonyan and Zisserman, ICLR 2015): channels of its convolutions, and where the maximum over 2 x 2 is taken
VGG11 = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)


class Convolution(nn.Module):
    """3 x 3, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x)))


class SkippableConvolution(Convolution, Residual):
    """With its input added before the ReLU. It has no more parameters than without."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)
        self.shortcut = nn.Sequential()

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Residual.forward(self, x)


class Plain(nn.Module):
    """Convolutions by `layers` (channels, `POOL`), mean over the pixels, linear classifier.

    skips  shortcuts around all convolutions that keep the channels: names and parameters stay the same
    """

    def __init__(self, layers: tuple[int, ...], classes: int, skips: bool) -> None:
        super().__init__()
        found: list[nn.Module] = []
        width = 3
        for channels in layers:
            if channels == POOL:
                found.append(nn.MaxPool2d(2))
                continue
            same = skips and channels == width
            found.append(SkippableConvolution(channels) if same else Convolution(width, channels))
            width = channels
        self.features = nn.Sequential(*found)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x).mean((2, 3)))


def vgg11(classes: int = 10, skips: bool = True) -> Plain:
    """VGG-11 with batch norm and one linear layer, as is usual for CIFAR: 9.2 million parameters; with `skips` four of
    its eight convolutions may be skipped, the first of which never is.
    """
    return Plain(VGG11, classes, skips)
