"""MobileNetV2: Sandler et al. (CVPR 2018). Its depthwise convolutions stay on the host (`nn.macs_by_place`)."""

import torch
from torch import nn

from ..blocks import Residual

#: of the paper's table 2: expansion, channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """With batch norm and ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]


class Inverted(nn.Module):
    """1 x 1 to `expansion` times the channels, 3 x 3 depthwise, 1 x 1 back, nothing behind it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        wider = _convolution(inputs, wide, 1) if expansion != 1 else []
        depthwise = _convolution(wide, wide, 3, stride, wide)
        self.body = nn.Sequential(*wider, *depthwise, *_convolution(wide, outputs, 1)[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class ResidualInverted(Inverted, Residual):
    """With its input added, so that it may be skipped."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__(channels, channels, 1, expansion)
        self.shortcut = nn.Sequential()

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def join(self, residual: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return residual + shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Residual.forward(self, x)


class MobileNetV2(nn.Module):
    """`strides`: those of the stem and of the seven stages."""

    def __init__(self, strides: tuple[int, ...], classes: int, dropout: float) -> None:
        super().__init__()
        layers, inputs = _convolution(3, STEM, 3, strides[0]), STEM
        for (expansion, channels, count, _), stride in zip(STAGES, strides[1:], strict=True):
            for index in range(count):
                first = stride if index == 0 else 1
                layers.append(
                    ResidualInverted(channels, expansion)
                    if first == 1 and inputs == channels
                    else Inverted(inputs, channels, first, expansion)
                )
                inputs = channels
        self.features = nn.Sequential(*layers, *_convolution(inputs, LAST, 1))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(LAST, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(self.features(x).mean((2, 3))))


def mobilenet_v2(classes: int = 1000) -> MobileNetV2:
    """For ImageNet, 224 x 224: 3,504,872 parameters, 0.3 thousand million MACs."""
    return MobileNetV2((2, *(stride for *_, stride in STAGES)), classes, 0.2)


def mobilenet_v2_cifar(classes: int = 10) -> MobileNetV2:
    """For CIFAR, 32 x 32: stem and second stage have stride 1, as is usual there; 2.24 million parameters."""
    return MobileNetV2((1, 1, 1, *(stride for *_, stride in STAGES[2:])), classes, 0.0)
