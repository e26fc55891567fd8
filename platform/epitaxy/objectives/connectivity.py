"""How often each pair of atoms of a crystal is connected, and the loss of guessing it.

A crystal of N atoms has N² ordered pairs. Their loss is computed in blocks, each of them once more
in the backward pass, so that memory follows the size of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from epitaxy.encoders.segments import segment_sum
from epitaxy.graph.batch import CrystalBatch, Graph
from epitaxy.heads.decoders import EdgeDecoder
from epitaxy.shapes import NodeFeatures

Reduction = Literal["step", "per_crystal"]

CLASS_WEIGHTS = (0.1, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Of pairs with 0, 1, … edges; the last class has that many or more. Most pairs have none."""


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs (centre, neighbour) of atoms of one crystal, an atom with itself included.

    They are sorted by centre, then by neighbour.

    Attributes:
        centers: Atoms whose pairs are looked at, (centers,).
        classes: Number of edges of each pair, at most 5, (pairs,).
        weights: What each pair weighs in the loss, (pairs,).
        count: What the weighted sum is divided by.
        centers_of: Number of centres of each crystal.
        atoms_of: Number of atoms of each crystal.
    """

    centers: Int[Tensor, " centers"]
    classes: Int[Tensor, " pairs"]
    weights: Float[Tensor, " pairs"]
    count: float
    centers_of: list[int]
    atoms_of: list[int]


def pairs_in(
    batch: CrystalBatch,
    graph: Graph,
    *,
    reduction: Reduction = "step",
    drawn: Bool[Tensor, " atoms"] | None = None,
) -> Pairs:
    """Returns the pairs of atoms in each crystal of ``batch``.

    Args:
        batch: Crystals.
        graph: Edges to count, fill included.
        reduction: ``step`` weighs pairs by their class; the loss is then the weighted mean over
            all pairs. ``per_crystal`` divides by the weights of the crystal: every crystal counts
            alike.
        drawn: Which atoms are centres, ``None`` for all. With ``step``, those of a crystal stand
            for the ones that were left out.
    """
    crystals, atoms_of = batch.num_graphs, batch.num_atoms
    chosen = torch.ones_like(batch.graph_index, dtype=torch.bool) if drawn is None else drawn
    centers_of = torch.zeros_like(atoms_of).index_add(0, batch.graph_index, chosen.long())
    sizes = torch.stack([centers_of, atoms_of], dim=1).tolist()
    num_pairs = sum(centers * atoms for centers, atoms in sizes)
    centers = chosen.nonzero().squeeze(-1)
    width = atoms_of[batch.graph_index[centers]]
    counts = _counts(batch, graph, chosen, width, num_pairs)
    classes = counts.clamp(max=len(CLASS_WEIGHTS) - 1)
    weights = batch.positions.new_tensor(CLASS_WEIGHTS)[classes]
    crystal = batch.graph_index[centers].repeat_interleave(width, output_size=num_pairs)
    if reduction == "per_crystal":
        weights = weights / segment_sum(weights, crystal, crystals)[crystal]
        count = float(crystals)
    else:
        if drawn is not None:
            weights = weights * (atoms_of / centers_of)[crystal].to(weights.dtype)
        count = float(weights.sum(dtype=torch.float64))
    return Pairs(
        centers, classes, weights, count, [row[0] for row in sizes], [row[1] for row in sizes]
    )


def draw_centers(
    num_atoms: int, max_pairs: int, rng: np.random.Generator
) -> Bool[np.ndarray, " atoms"]:
    """Returns which atoms of a crystal are centres, so that it has at most ``max_pairs`` pairs.

    At least one is. Whole centres are drawn, with all their neighbours.
    """
    number = min(num_atoms, max(1, max_pairs // num_atoms))
    drawn = np.zeros(num_atoms, dtype=bool)
    drawn[rng.choice(num_atoms, number, replace=False)] = True
    return drawn


def connectivity_loss(
    decoder: EdgeDecoder, node: NodeFeatures, pairs: Pairs, block_pairs: int
) -> Tensor:
    """Returns ``Σ w · −log softmax(l)_c`` over all pairs, a scalar.

    Args:
        decoder: Gives the logits ``l``.
        node: States of all atoms of the batch.
        pairs: With classes ``c`` and weights ``w``.
        block_pairs: Pairs at a time; more only if one centre has more.
    """
    blocks = list(_blocks(pairs.centers_of, pairs.atoms_of, block_pairs))
    lengths = [sum(rows * pairs.atoms_of[crystal] for crystal, rows in block) for block in blocks]
    crystals = node.split(pairs.atoms_of)
    centers = iter(node[pairs.centers].split([rows for block in blocks for _, rows in block]))
    total = node[:0].sum()  # 0, but a function of the states, if there are no pairs
    for block, classes, weights in zip(
        blocks, pairs.classes.split(lengths), pairs.weights.split(lengths), strict=True
    ):
        arguments = (
            decoder,
            [next(centers) for _ in block],
            [crystals[crystal] for crystal, _ in block],
            classes,
            weights,
        )
        if len(blocks) > 1:
            total = total + checkpoint(
                _block_loss, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:
            total = total + _block_loss(*arguments)
    return total


def _counts(
    batch: CrystalBatch, graph: Graph, chosen: Tensor, width: Tensor, num_pairs: int
) -> Int[Tensor, " pairs"]:
    """Returns the number of edges of each pair; ``width`` is that of pairs of each centre."""
    row = chosen.cumsum(0) - 1
    first_pair = width.cumsum(0) - width
    first_atom = batch.num_atoms.cumsum(0) - batch.num_atoms
    kept = chosen[graph.target]
    source, target = graph.source[kept], graph.target[kept]
    pair = first_pair[row[target]] + source - first_atom[batch.graph_index[source]]
    counts = torch.zeros(num_pairs, dtype=torch.int64, device=pair.device)
    return counts.index_add(0, pair, torch.ones_like(pair))


def _blocks(
    centers_of: Sequence[int], atoms_of: Sequence[int], limit: int
) -> Iterator[list[tuple[int, int]]]:
    """Yields runs of (crystal, number of its next centres) with at most ``limit`` pairs each."""
    block: list[tuple[int, int]] = []
    filled = 0
    for crystal, (rows, atoms) in enumerate(zip(centers_of, atoms_of, strict=True)):
        while rows:
            fitting = (limit - filled) // atoms
            if block and not fitting:
                yield block
                block, filled = [], 0
                continue
            taken = min(rows, max(fitting, 1))
            block.append((crystal, taken))
            filled += taken * atoms
            rows -= taken
    if block:
        yield block


def _block_loss(
    decoder: EdgeDecoder,
    centers: Sequence[Tensor],
    neighbors: Sequence[Tensor],
    classes: Int[Tensor, " pairs"],
    weights: Float[Tensor, " pairs"],
) -> Tensor:
    losses = functional.cross_entropy(decoder(centers, neighbors), classes, reduction="none")
    return (weights * losses).sum()
