"""Networks for the main job and the benches: residual CNNs with batch norm."""

import torch
from torch import nn
from torch.nn import functional

from .blocks import Residual


class Block(Residual):
    """Two 3 x 3 convolutions with batch norm, and a shortcut: a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class ResNet(nn.Module):
    """Stem, blocks, mean over the pixels, linear classifier. `stages`: (channels, blocks, stride) each."""

    def __init__(self, inputs: int, stem: int, stages: tuple[tuple[int, int, int], ...], classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, stem, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(stem)
        blocks, width = [], stem
        for channels, count, stride in stages:
            for index in range(count):
                blocks.append(Block(width, channels, stride if index == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        return self.linear(self.blocks(x).mean((2, 3)))


def digits_resnet() -> ResNet:
    """For 8 x 8 grey images in 10 classes: 6 convolutions, 8 then 16 channels; 0.14 million MACs an image."""
    return ResNet(1, 8, ((8, 1, 1), (16, 1, 2)), 10)


def resnet8() -> ResNet:
    """For CIFAR, as `resnet20` with one block a stage: 7 convolutions of 3 x 3, 2 shortcuts of 1 x 1."""
    return ResNet(3, 16, ((16, 1, 1), (32, 1, 2), (64, 1, 2)), 10)


def resnet20() -> ResNet:
    """For CIFAR, 32 x 32 colour images in 10 classes: 19 convolutions of 3 x 3, 2 shortcuts of 1 x 1."""
    return ResNet(3, 16, ((16, 3, 1), (32, 3, 2), (64, 3, 2)), 10)
