"""Networks that the methods were shown on: plain PyTorch modules, to be given to `bitfirst.convert`."""

from .mobilenet import MobileNetV2, mobilenet_v2, mobilenet_v2_cifar
from .resnet import (
    Block,
    PreResNet,
    ResNet,
    cifar_resnet,
    digits_resnet,
    resnet8,
    resnet18,
    resnet20,
    resnet34,
    resnet38,
    resnet74,
    resnet110,
    resnet164,
)
from .transformer import TextTransformer, Transformer, transformer_base, transformer_small
from .vgg import Plain, vgg11

__all__ = [
    "Block",
    "MobileNetV2",
    "Plain",
    "PreResNet",
    "ResNet",
    "TextTransformer",
    "Transformer",
    "cifar_resnet",
    "digits_resnet",
    "mobilenet_v2",
    "mobilenet_v2_cifar",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet38",
    "resnet74",
    "resnet110",
    "resnet164",
    "transformer_base",
    "transformer_small",
    "vgg11",
]
