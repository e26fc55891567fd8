"""CGCNN whose filters are replaced by attention without parameters (Deng et al.)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from epitaxy.encoders.activations import ActivationName, smooth_activation
from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.concatenation import ConcatenationLinear
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.norms import NormName, make_norm
from epitaxy.encoders.segments import segment_softmax, segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.shapes import Distances, EdgeIndex, NodeFeatures

LogitScale = Literal["none", "sqrt_dim"]


class AttentionCGCNN(MessagePassing):
    """Convolutions that weigh neighbours by how alike the two atoms are.

    For every edge from neighbour ``j`` to centre ``i`` at distance ``d`` ::

        a_ij = ⟨v_i, v_j⟩ ⟨φ(d), φ(d)⟩ / scale
        α_ij = c(d) exp(a_ij) / (Σ_j c(d) exp(a_ij) + sink)
        v_i' = h(v_i + norm_node(Σ_j α_ij g(norm_edge(W [v_i ⊕ v_j ⊕ φ(d)] + b))))

    The softmax has no parameters, so ``W`` is half as tall as CGCNN's. ``encoding.node`` is the
    last ``v``, (atoms, width).

    The literal formula (``cgcnn_attention_paper``) has ``scale`` = ``c`` = 1 and ``sink`` = 0; its
    text shows no norms and no ``h``, but it changes the code of Xie & Grossman, which has them.
    # Differs from Deng et al. in the preset ``cgcnn_attention``: all neighbours within the cutoff,
    an envelope with a sink (else the last neighbour of an atom leaves with full attention),
    logits over √width (those of 64 unnormalised features run to hundreds), no batch norm.

    Args:
        width: Features per atom.
        layers: Number of convolutions.
        rule: ``radius`` takes all neighbours within ``cutoff``, ``nearest`` the closest ones.
        cutoff: Radius in Å.
        max_neighbors: Neighbours per atom (``nearest``), or a cap (``radius``; not smooth). Atoms
            that have fewer get no fill edges.
        ties: Which of equally distant neighbours count: ``keep`` all, ``cut`` the first ones.
        num_basis: Number of Gaussians on [0, ``cutoff``].
        basis_width: Width of the Gaussians in units of their spacing.
        envelope: ``poly6``, ``cosine`` or ``none``.
        sink: Weight of a neighbour that sends nothing; 0 is the plain softmax.
        logit_scale: ``sqrt_dim`` divides logits by √width, ``none`` does not.
        norm: ``batch``, ``sync_batch``, ``layer`` or ``none``.
        core_activation: ``g``.
        outer_activation: ``h``.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        *,
        rule: Literal["radius", "nearest"] = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        ties: Ties = "cut",
        num_basis: int = 32,
        basis_width: float = 3.0,
        envelope: EnvelopeName = "poly6",
        sink: float = 1.0,
        logit_scale: LogitScale = "sqrt_dim",
        norm: NormName = "none",
        core_activation: ActivationName = "softplus",
        outer_activation: ActivationName = "none",
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1 or sink < 0:
            raise ConfigError(
                "CGCNN with attention needs width ≥ 1, layers ≥ 1 and sink ≥ 0, got "
                f"{width}, {layers} and {sink}"
            )
        if logit_scale not in ("none", "sqrt_dim"):
            hint = closest(logit_scale, ("none", "sqrt_dim"))
            raise ConfigError(f"logit_scale is {logit_scale!r}; {hint}")
        check_envelope(envelope)
        self.spec = GraphSpec(rule, cutoff, max_neighbors, ties=ties)
        self.envelope: EnvelopeName = envelope
        self.norm: NormName = norm
        self.node_width = width
        self.features = ElementFeatures("cgcnn92")
        self.basis = GaussianBasis(num_basis, cutoff, width=basis_width)
        self.embedding = nn.Linear(self.features.width, width)
        scale = 1.0 if logit_scale == "none" else width**-0.5
        self.interaction = nn.ModuleList(
            AttentionConvolution(
                width, num_basis, norm, scale, sink, core_activation, outer_activation
            )
            for _ in range(layers)
        )
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states.

        Raises:
            RecordError: If an element is not in the feature table (checked on CPU only; NaN on a
                GPU).
        """
        graph = batch.graph(self.spec)
        distances = batch.distances(self.spec)
        basis = self.basis(distances)
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff)
        node = self.embedding(self.features(batch.numbers))
        for block in self.interaction:
            node = block(node, basis, weight, graph.source, graph.target)
        return Encoding(node=node)


class AttentionConvolution(nn.Module):
    """One convolution: (atoms, width) → (atoms, width)."""

    def __init__(
        self,
        width: int,
        num_basis: int,
        norm: NormName,
        scale: float,
        sink: float,
        core_activation: ActivationName,
        outer_activation: ActivationName,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.sink = sink
        self.linear = ConcatenationLinear(width, num_basis, width)
        self.edge_norm = make_norm(norm, width)
        self.node_norm = make_norm(norm, width)
        self.core_activation = smooth_activation(core_activation)
        self.outer_activation = smooth_activation(outer_activation)
        self.attention = Tap("edges", "attention")

    def forward(
        self,
        node: NodeFeatures,
        basis: Float[Tensor, "edges basis"],
        weight: Distances,
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> NodeFeatures:
        """Returns the states after one exchange of messages."""
        alike = (node.index_select(0, target) * node.index_select(0, source)).sum(-1)
        logits = alike * basis.square().sum(-1) * self.scale
        share = segment_softmax(logits, target, len(node), weight, self.sink)
        core = self.core_activation(self.edge_norm(self.linear(node, basis, source, target)))
        message = self.attention(share).unsqueeze(-1) * core
        received: torch.Tensor = segment_sum(message, target, len(node))
        return self.outer_activation(node + self.node_norm(received))
