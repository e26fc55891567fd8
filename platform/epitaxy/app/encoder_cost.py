"""What an encoder costs: edges, matrix products and time, all for the same crystal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from epitaxy.encoders.contract import Encoding
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord

LATTICE = 4.0
"""Å, of cubic BaTiO3."""
CELLS = 2
"""Unit cells along each axis: 40 atoms."""
TIMED_CRYSTALS = 5
"""Copies in the batch that is timed: with one, overhead would be all that small encoders do."""
REPETITIONS = 5
PER_ATOMS = 1000
"""Costs are given for so many atoms."""


def standard_crystal() -> CrystalRecord:
    """Returns the perovskite BaTiO3 (a = 4.0 Å), 2 × 2 × 2 cells with 40 atoms."""
    fractions = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2.0
    cells = np.stack(np.meshgrid(*[np.arange(CELLS)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    return CrystalRecord(
        id="BaTiO3",
        numbers=np.tile(np.array([56, 22, 8, 8, 8], np.uint8), len(cells)),
        positions=(fractions + cells).reshape(-1, 3) * LATTICE,
        cell=np.eye(3) * LATTICE * CELLS,
    )


def standard_batch(encoder: Any, crystals: int = 1) -> CrystalBatch:
    """Returns ``crystals`` copies of the standard crystal with the graph that ``encoder`` reads."""
    return collate([standard_crystal()] * crystals, (encoder.spec,))


def edges_per_atom(encoder: Any) -> float:
    """Returns the directed edges that the encoder reads, for each atom of the crystal."""
    graph = standard_batch(encoder).graph(encoder.spec)
    return graph.num_edges / standard_crystal().num_atoms


def gflop(encoder: nn.Module) -> float:
    """Returns 10⁹ floating-point operations of a forward pass, for 1,000 atoms.

    What PyTorch's counter knows is counted: products of matrices, a product and a sum as two
    operations. Element-wise functions and sums over edges are left out.
    """
    operations = count_flop(encoder, standard_batch(encoder))
    return operations / 1e9 * PER_ATOMS / standard_crystal().num_atoms


def count_flop(module: nn.Module, *inputs: Any) -> int:
    """Returns the floating-point operations in the matrix products of ``module(*inputs)``."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(*inputs)
    return int(counter.get_total_flops())


def milliseconds(encoder: nn.Module) -> tuple[float, float]:
    """Returns the times of a forward pass, and of one with gradients of all weights.

    For 1,000 atoms on one thread of the CPU, the median of five after one that does not count. The
    graph is built beforehand.
    """
    batch = standard_batch(encoder, TIMED_CRYSTALS)
    scale = 1e3 * PER_ATOMS / len(batch.numbers)

    def forward() -> None:
        with torch.no_grad():
            encoder(batch)

    def forward_backward() -> None:
        encoder.zero_grad()
        _square(encoder(batch)).backward()

    with _one_thread():
        encoder.eval()
        alone = _median_seconds(forward)
        encoder.train()
        both = _median_seconds(forward_backward)
    encoder.eval().zero_grad()
    return alone * scale, both * scale


def _square(encoding: Encoding) -> torch.Tensor:
    """Returns a number that hangs on everything that the encoder computes."""
    given = (encoding.node, encoding.graph, encoding.vector)
    return torch.stack([part.square().sum() for part in given if part is not None]).sum()


def _median_seconds(work: Callable[[], None]) -> float:
    spent = []
    for _ in range(REPETITIONS + 1):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return median(spent[1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
