"""Losses that compare all crystals of a step, however these are spread over processes.

The rows that such a loss reads are made first, without gradients; every rank gathers those of all,
computes the loss and its gradient with respect to its own rows, and sends this gradient back
through the part of the model that made them (gradient caching: Gao et al. 2021). Memory is that of
one micro-batch, and the result that of one process with one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epitaxy.objectives.contract import Coupling, Rows, Term, Terms
from epitaxy.train import collective


@dataclass(frozen=True)
class Shared:
    """What one coupled term comes to over a whole step, as one rank needs it.

    Attributes:
        value: The mean loss over the rows of all ranks, equal on all of them.
        count: Number of these rows.
        gradients: Of the loss with respect to the rows of each micro-batch, by the rows' name;
            empty if nobody asked for them.
    """

    value: Tensor
    count: int
    gradients: Sequence[Rows]


def couplings(terms: Terms) -> dict[str, Coupling]:
    """Returns the coupled ones among ``terms``."""
    return {name: term for name, term in terms.items() if isinstance(term, Coupling)}


def share(parts: Sequence[Mapping[str, Coupling]], *, gradients: bool) -> dict[str, Shared]:
    """Returns each coupled term over the rows of all ranks; every rank must call it.

    Args:
        parts: The coupled terms of each of this rank's micro-batches, under the same names.
        gradients: Whether to compute gradients.
    """
    return {name: _share([part[name] for part in parts], gradients) for name in parts[0]}


def resolved(terms: Terms, shared: Mapping[str, Shared], part: int) -> dict[str, Term]:
    """Returns the terms of micro-batch ``part``, the coupled ones as sums over their own rows.

    Such a sum has the value of the whole step's loss, and the gradient of these rows alone: added
    up over micro-batches and ranks, both are those of the step.
    """
    return {
        name: _summed(term, shared[name], part) if isinstance(term, Coupling) else term
        for name, term in terms.items()
    }


def _share(parts: Sequence[Coupling], gradients: bool) -> Shared:
    everyone: dict[str, Tensor] = {}
    firsts: dict[str, int] = {}
    for name in sorted(parts[0].rows):
        own = torch.cat([part.rows[name].detach() for part in parts])
        own = own.float() if own.dtype == torch.bfloat16 else own  # sums over a step are fp32
        everyone[name], firsts[name] = collective.gather_rows(own)
    leaves = {name: rows for name, rows in everyone.items() if rows.is_floating_point()}
    for rows in leaves.values():
        rows.requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        value = parts[0].loss(everyone)
    count = len(next(iter(everyone.values())))
    if not gradients:
        return Shared(value, count, ())
    slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    sizes, own_count = [part.count for part in parts], sum(part.count for part in parts)
    own_slopes = {
        name: slope[firsts[name] : firsts[name] + own_count].split(sizes)
        for name, slope in zip(leaves, slopes, strict=True)
    }
    return Shared(
        value.detach(),
        count,
        [
            {name: pieces[index] for name, pieces in own_slopes.items()}
            for index in range(len(parts))
        ],
    )


def _summed(coupling: Coupling, shared: Shared, part: int) -> Term:
    total = shared.value * coupling.count
    if shared.gradients:
        slopes = shared.gradients[part]
        pull = torch.stack([(coupling.rows[name] * slopes[name]).sum() for name in slopes]).sum()
        # The step divides by the number of all rows; of the pull only its slope is wanted.
        total = total + (pull - pull.detach()) * shared.count
    return Term(total, coupling.count, coupling.weight)
