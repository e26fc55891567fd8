"""From the atoms of a crystal to one vector."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.encoders.segments import segment_sum
from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.shapes import GraphFeatures

Pool = Literal["mean", "sum", "max"]
_POOLS = ("mean", "sum", "max")


def check_pool(name: str) -> None:
    """Refuses unknown pools.

    Raises:
        ConfigError: With the closest known name.
    """
    if name not in _POOLS:
        raise ConfigError(f"pool is {name!r}; {closest(name, _POOLS)}")


def pool(name: Pool, values: Float[Tensor, "atoms features"], batch: CrystalBatch) -> GraphFeatures:
    """Returns mean, sum or largest entry over the atoms of each crystal.

    The mean is intensive and the sum extensive; the largest entry does not change with the
    size of the cell either, but has no slope except in one atom.
    """
    if name == "max":
        index = batch.graph_index.unsqueeze(-1).expand_as(values)
        empty = values.new_zeros(batch.num_graphs, values.shape[1])
        return empty.scatter_reduce(0, index, values, "amax", include_self=False)
    total = segment_sum(values, batch.graph_index, batch.num_graphs)
    return total if name == "sum" else total / batch.num_atoms.to(values.dtype).unsqueeze(-1)


def crystal_vector(encoding: Encoding, batch: CrystalBatch, name: Pool = "mean") -> GraphFeatures:
    """Returns the encoder's own crystal vector, or the pooled states of the atoms.

    Raises:
        NeedsError: If the encoder gives neither.
    """
    if encoding.graph is not None:
        return encoding.graph
    if encoding.node is None:
        raise NeedsError(
            "the encoder gives neither a crystal vector nor states of atoms (``node``)"
        )
    return pool(name, encoding.node, batch)


def crystal_width(encoder: Encoder) -> int:
    """Returns the width of what ``crystal_vector`` makes of an encoding."""
    return encoder.graph_width or encoder.node_width
