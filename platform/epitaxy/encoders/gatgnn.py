"""Graph attention network for crystals (Louis et al., Phys. Chem. Chem. Phys. 22, 18141, 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import KINKED, ActivationName, activation
from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.clusters import NUM_CLUSTERS, cluster_labels, other_clusters
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.norms import COUPLING, NormName, make_norm
from epitaxy.encoders.segments import segment_softmax, segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.shapes import EdgeIndex, NodeFeatures

GlobalAttention = Literal["composition", "cluster_fixed", "cluster_random"]
_GLOBAL = ("composition", "cluster_fixed", "cluster_random")
COMPOSITION_ELEMENTS = 103
"""The composition vector runs from H to Lr."""


class GATGNN(MessagePassing):
    """Attention over neighbours, then one over the atoms of the crystal.

    ``x = W_n features(Z) + b``, ``e = g(W_e φ(d))``, then per layer, with ``H`` heads ::

        p_i, p_j = softplus([x_i ⊕ e] W), softplus([x_j ⊕ e] W)
        a_ij     = softplus(norm(softplus(⟨p_i ⊕ p_j, att⟩)))                       per head
        x_i'     = softplus(norm(mean over heads of Σ_j α_ij p_j + b)),  α = c softmax(a)

    ``encoding.node`` is the last ``x``, (atoms, width): what distillation matches.
    ``encoding.graph`` is ``Σ_i β_i x_i``, (graphs, width), with weights ``β`` that add up to 1 over
    a crystal. ``composition``: ``β`` = softmax of a network of ``x_i`` and the crystal's
    composition. ``cluster_fixed`` and ``cluster_random``: of a network of the summed states of
    the atom's own, or another, cluster of coordinates, weighed by the cluster's size.

    The original (``gatgnn_paper``) reads 12 neighbours with fill edges and has batch norms. Its
    coordinate clusters depend on the choice of cell, its names for learnt clusters are left out:
    they fit three clusters only and their choice (an argmax) has no gradient.
    # Differs from Louis et al. in the preset ``gatgnn``: all neighbours within the cutoff, an
    envelope with a sink in the softmax, layer norms, none on the logits, and silu for the
    leaky ReLU ``g``, whose kinks would make forces jump.

    Args:
        width: Features per atom and edge.
        layers: Attention layers.
        heads: Of each layer.
        rule: ``radius`` takes all neighbours within ``cutoff``, ``nearest`` the closest ones.
        cutoff: Radius in Å.
        max_neighbors: Neighbours per atom (``nearest``), or a cap (``radius``; not smooth).
        padding: ``index0`` or ``masked``, see ``CGCNN``.
        ties: Which of equally distant neighbours count: ``keep`` all, ``cut`` the first ones.
        num_basis: Gaussians on [0, ``cutoff``].
        basis_width: Width of the Gaussians in units of their spacing.
        envelope: ``poly6``, ``cosine`` or ``none``.
        sink: Weight of a neighbour that sends nothing; 0 is the plain softmax.
        norm: ``batch``, ``sync_batch``, ``layer`` or ``none``; logits have batch norms or none.
        edge_activation: ``g``: ``silu``, ``softplus``, ``leaky_relu``, ``relu`` or ``none``.
        attention: How ``β`` comes about: ``composition``, ``cluster_fixed`` or ``cluster_random``.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        *,
        heads: int = 4,
        rule: Literal["radius", "nearest"] = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        padding: Literal["index0", "masked"] = "masked",
        ties: Ties = "cut",
        num_basis: int = 32,
        basis_width: float = 3.0,
        envelope: EnvelopeName = "poly6",
        sink: float = 1.0,
        norm: NormName = "layer",
        edge_activation: ActivationName = "silu",
        attention: GlobalAttention = "composition",
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1 or heads < 1 or sink < 0:
            raise ConfigError(
                "GATGNN needs width, layers and heads ≥ 1 and sink ≥ 0, got "
                f"{width}, {layers}, {heads} and {sink}"
            )
        if padding not in ("index0", "masked"):
            raise ConfigError(f"padding is {padding!r}; {closest(padding, ('index0', 'masked'))}")
        if attention not in _GLOBAL:
            raise ConfigError(f"attention is {attention!r}; {closest(attention, _GLOBAL)}")
        check_envelope(envelope)
        self.spec = GraphSpec(rule, cutoff, max_neighbors, padded=padding == "index0", ties=ties)
        self.envelope: EnvelopeName = envelope
        self.norm: NormName = norm
        self.smooth = edge_activation not in KINKED
        self.edge_activation = activation(edge_activation)
        self.by_composition = attention == "composition"
        self.node_width = width
        self.graph_width = width
        self.features = ElementFeatures("cgcnn92")
        self.basis = GaussianBasis(num_basis, cutoff, width=basis_width)
        self.embedding = nn.Linear(self.features.width, width)
        self.edge_embedding = nn.Linear(num_basis, width)
        self.interaction = nn.ModuleList(
            AugmentedAttention(width, heads, norm, sink) for _ in range(layers)
        )
        self.attention: nn.Module = (
            CompositionAttention(width)
            if self.by_composition
            else ClusterAttention(width, own=attention == "cluster_fixed")
        )
        self.tap = Tap("atoms", "attention")
        self.blocks = blocks_of(self)

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode; clusters of coordinates know of no periodicity."""
        held = super().invariances
        return held if self.by_composition else held & {"rotation"}

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states and the crystal's vector.

        Raises:
            RecordError: If an element is not in the feature table (checked on CPU only; NaN on a
                GPU).
        """
        graph = batch.graph(self.spec)
        distances = batch.distances(self.spec)
        edge = self.edge_activation(self.edge_embedding(self.basis(distances)))
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff).unsqueeze(-1)
        node = self.embedding(self.features(batch.numbers))
        for block in self.interaction:
            node = block(node, edge, weight, graph.source, graph.target)
        logits = self.attention(node, batch)
        share = self.tap(segment_softmax(logits, batch.graph_index, batch.num_graphs))
        crystal = segment_sum(node * share, batch.graph_index, batch.num_graphs)
        return Encoding(node=node, graph=crystal)


class AugmentedAttention(nn.Module):
    """One layer over neighbours: (atoms, width) → (atoms, width)."""

    def __init__(self, width: int, heads: int, norm: NormName, sink: float) -> None:
        super().__init__()
        self.heads = heads
        self.sink = sink
        self.project = nn.Parameter(torch.empty(2 * width, heads * width))
        self.score = nn.Parameter(torch.empty(heads, 2 * width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.logit_norm = make_norm(norm if norm in COUPLING else "none", heads)
        self.norm = make_norm(norm, width)
        self.attention = Tap("edges", "attention")
        nn.init.xavier_uniform_(self.project)
        nn.init.xavier_uniform_(self.score)

    def forward(
        self,
        node: NodeFeatures,
        edge: Float[Tensor, "edges width"],
        weight: Float[Tensor, "edges 1"],
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> NodeFeatures:
        """Returns the states after one exchange of messages."""
        width = node.shape[1]
        by_head = (-1, self.heads, width)
        from_node, from_edge = node @ self.project[:width], edge @ self.project[width:]
        center = functional.softplus(from_node.index_select(0, target) + from_edge).view(by_head)
        neighbor = functional.softplus(from_node.index_select(0, source) + from_edge).view(by_head)
        mine, other = self.score.split(width, dim=-1)
        logits = functional.softplus((center * mine).sum(-1) + (neighbor * other).sum(-1))
        logits = functional.softplus(self.logit_norm(logits))
        share = segment_softmax(logits, target, len(node), weight, self.sink)
        message = (self.attention(share).unsqueeze(-1) * neighbor).mean(1)
        received = segment_sum(message, target, len(node)) + self.bias
        return functional.softplus(self.norm(received))


class CompositionAttention(nn.Module):
    """One logit per atom from its state and its crystal's composition: (atoms, width) → (atoms, 1).

    ``hidden`` takes the state first, then the fractions of H to Lr.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width + COMPOSITION_ELEMENTS, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, node: NodeFeatures, batch: CrystalBatch) -> Float[Tensor, "atoms 1"]:
        """Returns the logits."""
        of_atom, of_crystal = self.hidden.weight.split((node.shape[1], COMPOSITION_ELEMENTS), dim=1)
        # An atom adds the column of its element, divided by the number of atoms.
        # The first row is for hidden elements, which add nothing.
        column = functional.pad(of_crystal.t(), (0, 0, 1, 0)).index_select(0, batch.numbers)
        mixed = segment_sum(column, batch.graph_index, batch.num_graphs)
        mixed = mixed / batch.num_atoms.to(mixed.dtype).unsqueeze(-1)
        hidden = functional.linear(node, of_atom, self.hidden.bias)
        hidden = hidden + mixed.index_select(0, batch.graph_index)
        return self.out(functional.softplus(hidden))


class ClusterAttention(nn.Module):
    """One logit per atom from a cluster of atoms: (atoms, width) → (atoms, 1).

    Args:
        width: Features per atom.
        own: Whether the atom's own cluster counts, or another one that the id of its record draws.
    """

    def __init__(self, width: int, *, own: bool) -> None:
        super().__init__()
        self.own = own
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, node: NodeFeatures, batch: CrystalBatch) -> Float[Tensor, "atoms 1"]:
        """Returns the logits."""
        labels = cluster_labels(batch)
        chosen = labels if self.own else other_clusters(labels, batch)
        place = batch.graph_index * NUM_CLUSTERS
        count = batch.num_graphs * NUM_CLUSTERS
        total = segment_sum(node, place + labels, count).index_select(0, place + chosen)
        one = node.new_ones(len(node), 1)
        size = segment_sum(one, place + labels, count).index_select(0, place + chosen)
        # Shares of the chosen clusters, scaled to add up to 1 over the atoms of a crystal.
        whole = segment_sum(size, batch.graph_index, batch.num_graphs)
        share = size / whole.index_select(0, batch.graph_index)
        return self.out(functional.leaky_relu(self.hidden(total * share), 0.45))
