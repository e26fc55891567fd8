"""Any PyTorch Geometric network of atoms and bonds as an encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.contract import Encoding, Provision, blocks_of
from epitaxy.encoders.elements import ElementEmbedding
from epitaxy.encoders.invariances import invariances_of
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Rule, Ties


class PyGEncoder(nn.Module):
    """Wraps a ``torch_geometric.nn`` model that maps node and edge features to node features.

    The network is called as ``network(x, edge_index, edge_attr=…)`` with a learnt vector per
    element as ``x`` and Gaussians of distances, times the envelope, as ``edge_attr``; its result
    is ``encoding.node``. ``edge_index`` points from neighbour to centre.

    Only what the graph promises is declared: that every layer of the network treats edges alike
    and keeps the order of atoms. ``smooth_cutoff`` is not, because most networks count a bond
    whose features are 0 as well.

    Args:
        network: The model, such as ``{_target_: torch_geometric.nn.GAT, …}``.
        in_channels: Width of ``x``; the network's ``in_channels``.
        num_basis: Width of ``edge_attr``; the network's ``edge_dim``.
        out_channels: Width of the result.
        rule: As for ``GraphSpec``.
        cutoff: Å.
        max_neighbors: As for ``GraphSpec``.
        ties: As for ``GraphSpec``.
        envelope: ``poly6``, ``cosine`` or ``none``.
        num_elements: Rows of the embedding; row = atomic number.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    graph_width = 0
    vector_width = 0

    def __init__(
        self,
        network: Any,
        *,
        in_channels: int,
        out_channels: int,
        num_basis: int = 32,
        rule: Rule = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        ties: Ties = "keep",
        envelope: EnvelopeName = "poly6",
        num_elements: int = 119,
    ) -> None:
        super().__init__()
        check_envelope(envelope)
        self.spec = GraphSpec(rule, cutoff, max_neighbors, ties=ties)
        self.envelope: EnvelopeName = envelope
        self.node_width = out_channels
        self.basis = GaussianBasis(num_basis, cutoff, width=3.0)
        self.embedding = ElementEmbedding(num_elements, in_channels)
        self.network: nn.Module = network
        self.blocks = blocks_of(self)

    @property
    def provides(self) -> frozenset[Provision]:
        """States of atoms; energies are differentiable unless neighbours are ranked."""
        smooth_ranks = self.spec.rule == "radius"
        return frozenset({"node", "position_grad"} if smooth_ranks else {"node"})

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode."""
        return invariances_of(self.spec, "none")

    @property
    def couples_records(self) -> bool:
        """Whether the network has batch statistics."""
        return any(getattr(m, "running_mean", None) is not None for m in self.network.modules())

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the network's states."""
        distances = batch.distances(self.spec)
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff).unsqueeze(-1)
        edges = batch.edge_index(self.spec)
        states: Tensor = self.network(
            self.embedding(batch.numbers), edges, edge_attr=self.basis(distances) * weight
        )
        return Encoding(node=states)
