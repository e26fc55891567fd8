"""What every encoder promises. Encoders only encode: no I/O, no config, no loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec
from epitaxy.shapes import GraphFeatures, NodeFeatures

Provision = Literal["graph", "node", "edge", "vector", "position_grad"]


@dataclass(frozen=True)
class Encoding:
    """What an encoder computes for a batch.

    Attributes:
        node: State of each atom after the last interaction block, (atoms, node_width).
        graph: Crystal vector, if the encoder pools by itself (Roost); heads pool otherwise.
        vector: Equivariant state of each atom, (atoms, 3, width), if provided.
    """

    node: NodeFeatures
    graph: GraphFeatures | None = None
    vector: Float[Tensor, "atoms 3 width"] | None = None


@runtime_checkable
class Encoder(Protocol):
    """A ``torch.nn.Module`` with these attributes.

    Attributes:
        spec: The graph it reads.
        provides: What heads and objectives may ask of it; ``position_grad`` means that energies
            built on it are differentiable in positions and cell.
        invariances: Which of ``rotation``, ``translation``, ``permutation``, ``supercell``,
            ``smooth_cutoff`` hold; the contract tests check each one that is declared.
        blocks: Names of its direct parts in order of computation, for freezing and transfer.
        couples_records: Whether, in training mode, one crystal's output depends on the others
            of its batch (batch norm).
        node_width: Width of ``Encoding.node``.
    """

    spec: GraphSpec
    provides: frozenset[Provision]
    invariances: frozenset[str]
    blocks: tuple[str, ...]
    couples_records: bool
    node_width: int

    def __call__(self, batch: CrystalBatch) -> Encoding:
        """Returns the states of a batch that holds a graph for ``spec``."""
        ...
