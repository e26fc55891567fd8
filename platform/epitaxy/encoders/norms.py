"""Normalisation layers, among them a batch norm whose batch is spread over workers."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.errors import ConfigError, closest

NormName = Literal["batch", "sync_batch", "layer", "none"]
COUPLING = frozenset({"batch", "sync_batch"})
"""Norms through which one crystal's output depends on the others of its batch in training."""

Rows = Float[Tensor, "rows features"]


def make_norm(name: NormName, width: int) -> nn.Module:
    """Returns the norm called ``name`` for rows of ``width`` features.

    Raises:
        ConfigError: For an unknown name.
    """
    if name == "none":
        return nn.Identity()
    if name == "layer":
        return nn.LayerNorm(width)
    if name in COUPLING:
        return BatchNorm(width, synchronised=name == "sync_batch")
    raise ConfigError(f"unknown norm {name!r}; {closest(name, (*COUPLING, 'layer', 'none'))}")


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over rows that accepts batches without or with a single row.

    With ``synchronised``, mean and variance are those of the rows of all workers, so the result,
    its gradients and the running statistics equal plain batch norm on the whole batch
    (torch's own synchronised layer works on GPUs only). Every worker must then call it equally
    often, if only with zero rows. Without a process group it is plain batch norm.
    """

    def __init__(self, width: int, *, synchronised: bool = False) -> None:
        super().__init__(width)
        self.synchronised = synchronised

    def forward(self, input: Rows) -> Rows:
        """Returns normalised rows; in training mode updates the running statistics."""
        shared = self.synchronised and torch.distributed.is_initialized()
        if not self.training or (len(input) > 1 and not shared):
            return super().forward(input)
        count = _sum_over_workers(input.new_tensor([len(input)])) if shared else len(input)
        count = int(count)
        if count == 0:
            return input * self.weight + self.bias
        total = input.sum(0)
        mean = (_AllReduceSum.apply(total) if shared else total) / count
        deviation = input - mean
        squares = deviation.square().sum(0)
        variance = (_AllReduceSum.apply(squares) if shared else squares) / count
        self._update(mean.detach(), variance.detach(), count)
        return deviation * torch.rsqrt(variance + self.eps) * self.weight + self.bias

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics as torch does: with the unbiased variance."""
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        # One row has no variance: only its mean is worth keeping.
        unbiased = variance * (count / (count - 1)) if count > 1 else self.running_var
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased, momentum)


def _sum_over_workers(value: Tensor) -> Tensor:
    result = value.detach().clone()
    torch.distributed.all_reduce(result)
    return result


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers, differentiable.

    The loss of a step is the sum of the workers' losses, so the gradient of one worker's summand
    is the sum of the gradients that all workers hold for the result.
    """

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return _sum_over_workers(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _AllReduceSum.apply(gradients[0].contiguous())
