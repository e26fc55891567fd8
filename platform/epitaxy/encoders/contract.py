"""What every encoder promises. Encoders only encode: no I/O, no config, no loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec

Provision = Literal["graph", "node", "vector", "position_grad", "composition"]


@dataclass(frozen=True)
class Encoding:
    """What an encoder computes for a batch.

    Attributes:
        node: State of each atom after the last interaction block, (atoms, node_width), if provided.
        graph: Crystal vector, (graphs, graph_width), if the encoder pools by itself; heads pool
            ``node`` otherwise.
        vector: Equivariant state of each atom, (atoms, 3, vector_width), if provided: it turns
            with the crystal.
    """

    node: Float[Tensor, "atoms node_width"] | None = None
    graph: Float[Tensor, "graphs graph_width"] | None = None
    vector: Float[Tensor, "atoms 3 vector_width"] | None = None


@runtime_checkable
class Encoder(Protocol):
    """A ``torch.nn.Module`` with these attributes.

    Attributes:
        spec: The graph it reads.
        provides: What heads and objectives may ask of it; ``position_grad`` means that energies
            built on it are differentiable in positions and cell, ``composition`` that it reads
            compositions (and structures as such).
        invariances: Which of ``rotation``, ``translation``, ``permutation``, ``supercell``,
            ``unit_cell`` (any other cell of the same lattice), ``smooth_cutoff`` hold in eval mode;
            the contract tests check each one that is declared.
        blocks: Names of its direct parts in order of computation, for freezing and transfer.
        couples_records: Whether, in training mode, one crystal's output depends on the others
            of its batch (batch norm).
        node_width: Width of ``Encoding.node``, 0 without it.
        graph_width: Width of ``Encoding.graph``, 0 without it.
        vector_width: Width of ``Encoding.vector``, 0 without it.
    """

    spec: GraphSpec
    provides: frozenset[Provision]
    invariances: frozenset[str]
    blocks: tuple[str, ...]
    couples_records: bool
    node_width: int
    graph_width: int
    vector_width: int

    def __call__(self, batch: CrystalBatch) -> Encoding:
        """Returns the states of a batch that holds a graph for ``spec``."""
        ...


def blocks_of(encoder: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parts with parameters; the layers of a list count one by one."""
    names: list[str] = []
    for name, part in encoder.named_children():
        layers = range(len(part)) if isinstance(part, nn.ModuleList) else ()
        if next(part.parameters(), None) is not None:
            names += [f"{name}.{layer}" for layer in layers] or [name]
    return tuple(names)
