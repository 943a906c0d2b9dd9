"""Range batch norm: batch norm that divides by the range of the values, not by their deviation."""

import math

import torch
from torch import nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Range(_BatchNorm):
    """(x - mean) / (range(x - mean) / sqrt(2 ln n)), of the n values of a channel (Banner et al., NeurIPS 2018).

    Parameters, statistics and arguments are those of PyTorch's batch norm; `running_var` is the square of what is
    divided by, so that in evaluation PyTorch's computes the same of it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, c, ...] -> the same shape. Raises `ValueError` in training for one value in each channel."""
        self._check_input_dim(x)
        others = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        if self.training or self.running_mean is None:
            mean, variance = self._statistics(x, others)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = (variance + self.eps).sqrt()
        y = (x - mean.reshape(shape)) / scale.reshape(shape)
        return y if self.weight is None else y * self.weight.reshape(shape) + self.bias.reshape(shape)

    def _statistics(self, x: torch.Tensor, others: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(f"batch norm in training needs more than 1 value in each channel, got {list(x.shape)}")
        mean = x.mean(others)
        variance = (x.amax(others) - x.amin(others)).square() / (2 * math.log(count))
        if self.training and self.running_mean is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach(), momentum)
        return mean, variance


class RangeBatchNorm1d(_Range, nn.BatchNorm1d):
    """Of [n, c] and [n, c, l]."""


class RangeBatchNorm2d(_Range, nn.BatchNorm2d):
    """Of [n, c, h, w]."""


_RANGE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: RangeBatchNorm1d,
    nn.BatchNorm2d: RangeBatchNorm2d,
}
_ORDINARY = {of_range: ordinary for ordinary, of_range in _RANGE.items()}


def by_range(net: nn.Module) -> int:
    """Makes range batch norm of each batch norm of `net`; how many there are."""
    norms = [module for module in net.modules() if type(module) in _RANGE]
    for module in norms:
        module.__class__ = _RANGE[type(module)]
    return len(norms)


def ordinary(net: nn.Module) -> None:
    """Makes PyTorch's batch norm of each range batch norm of `net`."""
    for module in net.modules():
        module.__class__ = _ORDINARY.get(type(module), type(module))
