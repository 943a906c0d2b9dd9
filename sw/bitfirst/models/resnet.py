"""Residual CNNs with batch norm: He et al., "Deep residual learning for image recognition" (CVPR 2016)."""

import torch
from torch import nn
from torch.nn import functional

from ..blocks import Residual
from ..errors import UsageError

CONVOLUTION, PADDING = SHORTCUTS = "convolution", "padding"


class Padded(nn.Module):
    """A shortcut without parameters (the paper's option A): every `stride`-th pixel, and channels of zeros behind."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Block(Residual):
    """Two 3 x 3 convolutions with batch norm, and a shortcut: a 1 x 1 convolution where the shape changes, or with
    `shortcut="padding"` zeros.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: str = CONVOLUTION) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                Padded(outputs - inputs, stride)
                if shortcut == PADDING
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class ResNet(nn.Module):
    """Stem, blocks, mean over the pixels, linear classifier.

    stages    (channels, blocks, stride) each
    shortcut  where the shape changes: "convolution" (the paper's option B) or "padding" (A)
    large     for large images: the stem is a 7 x 7 convolution of stride 2 and a maximum over 3 x 3 of stride 2
    """

    def __init__(
        self,
        inputs: int,
        stem: int,
        stages: tuple[tuple[int, int, int], ...],
        classes: int,
        shortcut: str = CONVOLUTION,
        large: bool = False,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise UsageError(f"shortcut {shortcut!r} is unknown: choose from {', '.join(SHORTCUTS)}")
        self.conv = nn.Conv2d(inputs, stem, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.norm = nn.BatchNorm2d(stem)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        blocks, width = [], stem
        for channels, count, stride in stages:
            for index in range(count):
                blocks.append(Block(width, channels, stride if index == 0 else 1, shortcut))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.norm(self.conv(x))))
        return self.linear(self.blocks(x).mean((2, 3)))


def digits_resnet() -> ResNet:
    """For 8 x 8 grey images in 10 classes: 6 convolutions, 8 then 16 channels; 0.14 million MACs an image."""
    return ResNet(1, 8, ((8, 1, 1), (16, 1, 2)), 10)


def cifar_resnet(depth: int, classes: int = 10, shortcut: str = CONVOLUTION) -> ResNet:
    """For CIFAR, 32 x 32 colour images (section 4.2 of the paper): `depth` is 6 n + 2, n blocks in each of three stages
    of 16, 32 and 64 channels, and counts the 3 x 3 convolutions and the classifier.

    Raises `UsageError` for another depth.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise UsageError(f"depth = {depth}: choose 8, 14, 20 or another 6 n + 2")
    return ResNet(3, 16, ((16, blocks, 1), (32, blocks, 2), (64, blocks, 2)), classes, shortcut)


def resnet8(classes: int = 10) -> ResNet:
    """`cifar_resnet(8)`: 7 convolutions of 3 x 3, 2 shortcuts of 1 x 1; 78 thousand parameters."""
    return cifar_resnet(8, classes)


def resnet20(classes: int = 10) -> ResNet:
    """`cifar_resnet(20)`: 19 convolutions of 3 x 3, 2 shortcuts of 1 x 1; 0.27 million parameters, 41 million MACs."""
    return cifar_resnet(20, classes)


def resnet38(classes: int = 10) -> ResNet:
    """`cifar_resnet(38)`, of E2-Train and FracTrain: 0.57 million parameters."""
    return cifar_resnet(38, classes)


def resnet74(classes: int = 10) -> ResNet:
    """`cifar_resnet(74)`, of E2-Train and FracTrain: 1.15 million parameters."""
    return cifar_resnet(74, classes)


def resnet110(classes: int = 10) -> ResNet:
    """`cifar_resnet(110)`, of E2-Train: 1.7 million parameters, 255 million MACs."""
    return cifar_resnet(110, classes)


class PreBlock(Residual):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, each behind batch norm and ReLU; nothing behind the sum."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(functional.relu(self.norm1(x)))
        x = self.conv2(functional.relu(self.norm2(x)))
        return self.conv3(functional.relu(self.norm3(x)))

    def join(self, residual: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return residual + shortcut


class PreResNet(nn.Module):
    """Pre-activation ResNet of bottlenecks for CIFAR: three stages of `blocks`, of 64, 128 and 256 channels."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        found, inputs = [], 16
        for width, stride in (16, 1), (32, 2), (64, 2):
            for index in range(blocks):
                found.append(PreBlock(inputs, width, stride if index == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*found)
        self.norm = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(functional.relu(self.norm(self.blocks(self.conv(x)))).mean((2, 3)))


def resnet164(classes: int = 10) -> PreResNet:
    """ResNet-164 of He et al., "Identity mappings in deep residual networks" (ECCV 2016), for CIFAR: 18 bottlenecks a
    stage; 1.7 million parameters. `cifar_resnet(164)` is as deep, of 27 basic blocks a stage, and has 2.6 million.
    """
    return PreResNet(18, classes)


def resnet18(classes: int = 1000) -> ResNet:
    """For ImageNet, 224 x 224: 11,689,512 parameters, 1.8 thousand million MACs."""
    return ResNet(3, 64, ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)), classes, large=True)


def resnet34(classes: int = 1000) -> ResNet:
    """For ImageNet, 224 x 224: 21,797,672 parameters, 3.7 thousand million MACs."""
    return ResNet(3, 64, ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)), classes, large=True)
