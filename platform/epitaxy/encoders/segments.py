"""Sums, means and softmaxes over the edges of each atom, or over the atoms of each crystal."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rows = Float[Tensor, "rows *features"]
Index = Int[Tensor, " rows"]


def segment_sum(values: Rows, index: Index, count: int) -> Float[Tensor, "segments *features"]:
    """Returns the sum of the rows of each segment; 0 for one without rows."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, index, values)


def segment_mean(
    values: Rows, index: Index, count: int, weight: Float[Tensor, " rows"], floor: float
) -> Float[Tensor, "segments *features"]:
    """Returns ``Σ w v / (Σ w + floor)``: 0 for a segment without rows.

    With an envelope as ``weight``, a neighbour that leaves takes its share along. A ``floor`` far
    below 1 makes that a leap for the last neighbour of an atom: the ratio stays until the
    weight itself is as small as the floor.
    """
    scale = weight.reshape(-1, *[1] * (values.dim() - 1))
    total = segment_sum(values * scale, index, count)
    share = segment_sum(weight, index, count).reshape(-1, *[1] * (values.dim() - 1))
    return total / (share + floor).clamp(min=torch.finfo(values.dtype).tiny)


def segment_softmax(
    logits: Rows,
    index: Index,
    count: int,
    weight: Float[Tensor, "rows ..."] | None = None,
    sink: float = 0.0,
) -> Rows:
    """Returns ``w exp(l) / (Σ w exp(l) + sink)`` with sums over each segment.

    With ``sink`` 0 and no weights this is the softmax; ``sink`` > 0 is a neighbour of logit
    ``ln sink`` that sends nothing, so that attention fades out with the weights (an envelope)
    even of an atom's only neighbour. The largest logit is subtracted throughout.

    Args:
        logits: ``l``.
        index: Segment of each row.
        count: Number of segments.
        weight: ``w`` ≥ 0, of a shape that broadcasts to ``logits``.
        sink: ≥ 0.
    """
    floor = 0.0 if sink > 0 else -torch.inf
    largest = logits.new_full((count, *logits.shape[1:]), floor)
    spread = index.reshape(-1, *[1] * (logits.dim() - 1)).expand_as(logits)
    # Only a shift, which cancels: its gradient would be rounding noise.
    largest = largest.scatter_reduce(0, spread, logits.detach(), "amax")
    raised = torch.exp(logits - largest.index_select(0, index))
    if weight is not None:
        raised = raised * weight
    total = segment_sum(raised, index, count)
    if sink > 0:
        total = total + sink * torch.exp(-largest)
    return raised / total.index_select(0, index)
