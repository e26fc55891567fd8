"""The few collective operations that training needs; each also works without a process group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import epitaxy.errors
from epitaxy.errors import EpitaxyError

BUCKET_BYTES = 25 * 2**20
"""Gradients are reduced in buckets of this size: few messages, bounded extra memory."""


def active() -> bool:
    """Returns whether a process group of this process exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Returns the rank of this process; 0 without a process group."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Returns the number of processes; 1 without a process group."""
    return dist.get_world_size() if active() else 1


def sum_numbers(
    values: Mapping[str, float], *, dtype: torch.dtype = torch.float64
) -> dict[str, float]:
    """Returns the sum of each value over all ranks, which must hold the same names.

    Raises:
        RuntimeError: If the ranks hold different numbers of values.
    """
    names = sorted(values)
    tensor = torch.tensor([float(values[name]) for name in names], dtype=dtype, device=_device())
    if active() and names:
        dist.all_reduce(tensor)
    return dict(zip(names, tensor.tolist(), strict=True))


def broadcast(value: Any) -> Any:
    """Returns rank 0's ``value`` (any picklable object) on every rank."""
    if not active():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0, device=_device())
    return holder[0]


def gather(value: Any) -> list[Any]:
    """Returns the values of all ranks, by rank, on every rank."""
    if not active():
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def gather_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Returns the rows of all ranks, by rank, and the number of the first of this rank's own.

    Ranks may hold different numbers of rows. The result carries no gradient.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor, 0
    sizes = [int(size) for size in gather(len(tensor))]
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    everyone = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(everyone, padded)
    parts = [part[:size] for part, size in zip(everyone, sizes, strict=True)]
    return torch.cat(parts), sum(sizes[: rank()])


def barrier() -> None:
    """Waits until every rank is here."""
    if active():
        sum_numbers({"here": 1})


def raise_together(error: EpitaxyError | None) -> None:
    """Raises on every rank if any rank holds an error, so that none is left waiting.

    Raises:
        EpitaxyError: The error of the lowest failing rank, in its own class.
    """
    if not active():
        if error is not None:
            raise error
        return
    if not sum_numbers({"failed": error is not None})["failed"]:
        return
    reports = gather(None if error is None else (type(error).__name__, str(error)))
    failing, (name, message) = next((r, x) for r, x in enumerate(reports) if x is not None)
    if error is not None and failing == rank():
        raise error
    kind = getattr(epitaxy.errors, name, EpitaxyError)
    raise kind(f"{message} (on rank {failing})")


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrites ``tensors`` on every rank with those of rank 0."""
    if active():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def sum_tensors(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all ranks, in flat buckets of one dtype."""
    if world_size() == 1:
        return
    pending = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    filled: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        bucket, size = filled.get(tensor.dtype, ([], 0))
        if not bucket or size + tensor.nbytes > BUCKET_BYTES:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(tensor)
        filled[tensor.dtype] = (bucket, size + tensor.nbytes)
    return buckets


def _device() -> torch.device:
    on_gpu = active() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
