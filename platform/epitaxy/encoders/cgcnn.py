"""Crystal graph convolutional network (Xie & Grossman, Phys. Rev. Lett. 120, 145301, 2018).

Its descendants CrysXPP, CrysGNN and Crystal Twins differ in how atoms enter and leave.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import ActivationName, smooth_activation
from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.concatenation import ConcatenationLinear
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.norms import NormName, make_norm
from epitaxy.encoders.pooling import pool
from epitaxy.encoders.segments import segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.shapes import EdgeIndex, NodeFeatures

Rule = Literal["radius", "nearest"]
Padding = Literal["index0", "masked"]


class CGCNN(MessagePassing):
    """Crystal graph network whose messages are gated by both atoms and their distance.

    For every edge from neighbour ``j`` to centre ``i`` at distance ``d`` ::

        v_i⁰ = W_e x(Z_i) + b_e
        f, s = split(norm_edge(W [v_i ⊕ v_j ⊕ φ(d)] + b))
        m_i  = scale · Σ_j  c(d) · sigmoid(f) · g(s)
        v_i' = h(v_i + norm_node(m_i))

    with element features ``x`` (92 binned properties, the table of Xie & Grossman), Gaussians
    ``φ``, envelope ``c``, core activation ``g`` and outer activation ``h``. ``encoding.node`` is
    the last ``v``, (atoms, width).

    The original (``cgcnn_paper``) has ``c`` = 1, ``scale`` = 1, ``g`` = ``h`` = softplus, batch
    norms, and the 12 nearest neighbours; both norms and ``h`` are in the authors' code, not in
    the paper's equation. Its energy jumps whenever two neighbours change rank.
    # Differs from Xie & Grossman 2018 in the preset ``cgcnn``: all neighbours within the cutoff,
    an envelope, a constant ``scale`` in place of the norms. So the energy is smooth, twice
    differentiable, and additive over distant fragments.

    CrysXPP (Das et al., npj Comput. Mater. 8, 43, 2022) weighs the element features by a learnt
    mask first: ``feature_selector``. The encoder of CrysGNN (Das et al., AAAI 37, 7323, 2023) has
    no ``b_e`` and ends with ``v / ‖v‖``: ``embedding_bias``, ``unit_length``. That of Crystal
    Twins (Magar et al., npj Comput. Mater. 8, 231, 2022) goes on to a crystal vector
    ``softplus(W_c softplus(mean v) + b_c)``, which is what its fine-tuning starts from:
    ``crystal_width``.

    Args:
        width: Features per atom.
        layers: Number of convolutions.
        rule: ``radius`` takes all neighbours within ``cutoff``, ``nearest`` the closest ones.
        cutoff: Radius in Å.
        max_neighbors: Neighbours per atom (``nearest``), or a cap (``radius``; not smooth).
        padding: For ``nearest``, atoms with fewer neighbours than ``max_neighbors``: ``index0``
            fills up with edges to the first atom of the crystal at ``cutoff`` + 1 Å that count like
            any other (the published weights need them), ``masked`` adds none.
        ties: Where ``max_neighbors`` falls between neighbours that are equally far: ``keep`` takes
            all of them, ``cut`` the first ones, as the published weights need; then the energy
            depends on the order of atoms and the choice of cell (docs/graphs.md has a crystal).
        num_basis: Number of Gaussians on [``basis_start``, ``cutoff``].
        basis_start: First Gaussian's centre in Å.
        basis_width: Width of the Gaussians in units of their spacing.
        envelope: ``poly6``, ``cosine`` or ``none``.
        message_scale: Constant factor on the sum of messages.
        norm: ``batch``, ``sync_batch`` (batch over all workers), ``layer`` or ``none``.
        core_activation: ``g``: ``silu``, ``softplus`` or ``none``.
        outer_activation: ``h``; the same choices.
        embedding_bias: Whether there is a ``b_e``.
        feature_selector: Whether element features are multiplied by a learnt mask (at first 1).
        unit_length: Whether the states of atoms end up with length 1.
        crystal_width: Width of the crystal vector; 0 for none.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        *,
        rule: Rule = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        padding: Padding = "masked",
        ties: Ties = "cut",
        num_basis: int = 32,
        basis_start: float = 0.0,
        basis_width: float = 3.0,
        envelope: EnvelopeName = "poly6",
        message_scale: float = 0.3,
        norm: NormName = "none",
        core_activation: ActivationName = "silu",
        outer_activation: ActivationName = "none",
        embedding_bias: bool = True,
        feature_selector: bool = False,
        unit_length: bool = False,
        crystal_width: int = 0,
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1:
            raise ConfigError(f"CGCNN needs width ≥ 1 and layers ≥ 1, got {width} and {layers}")
        if padding not in ("index0", "masked"):
            raise ConfigError(f"padding is {padding!r}; {closest(padding, ('index0', 'masked'))}")
        check_envelope(envelope)
        padded = padding == "index0"
        self.spec = GraphSpec(rule, cutoff, max_neighbors, padded=padded, ties=ties)
        self.envelope: EnvelopeName = envelope
        self.norm: NormName = norm
        self.node_width = width
        self.graph_width = crystal_width
        self.unit_length = unit_length
        self.features = ElementFeatures("cgcnn92")
        self.basis = GaussianBasis(num_basis, cutoff, start=basis_start, width=basis_width)
        self.selector = FeatureSelector(self.features.width) if feature_selector else nn.Identity()
        self.embedding = nn.Linear(self.features.width, width, bias=embedding_bias)
        self.interaction = nn.ModuleList(
            GatedConvolution(
                width, num_basis, norm, message_scale, core_activation, outer_activation
            )
            for _ in range(layers)
        )
        self.crystal = nn.Linear(width, crystal_width) if crystal_width else nn.Identity()
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states, and the crystal's vector if there is one.

        Raises:
            RecordError: If an element is not in the feature table (checked on CPU only; on a GPU
                its states are NaN, which stops training).
        """
        graph = batch.graph(self.spec)
        distances = batch.distances(self.spec)
        basis = self.basis(distances)
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff).unsqueeze(-1)
        node = self.embedding(self.selector(self.features(batch.numbers)))
        for block in self.interaction:
            node = block(node, basis, weight, graph.source, graph.target)
        if self.unit_length:
            node = functional.normalize(node, dim=-1)
        return Encoding(node=node, graph=self._crystal(node, batch) if self.graph_width else None)

    def _crystal(
        self, node: NodeFeatures, batch: CrystalBatch
    ) -> Float[Tensor, "graphs crystal_width"]:
        pooled = functional.softplus(pool("mean", node, batch))
        return functional.softplus(self.crystal(pooled))


class FeatureSelector(nn.Module):
    """Multiplies each element feature by a weight that is learnt, at first 1 (CrysXPP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.tap = Tap("features", "feature mask")

    def forward(self, features: NodeFeatures) -> NodeFeatures:
        """Returns the weighed features, (atoms, width)."""
        return features * self.tap(self.weight)


class GatedConvolution(nn.Module):
    """One convolution of ``CGCNN``: (atoms, width) → (atoms, width)."""

    def __init__(
        self,
        width: int,
        num_basis: int,
        norm: NormName,
        message_scale: float,
        core_activation: ActivationName,
        outer_activation: ActivationName,
    ) -> None:
        super().__init__()
        self.message_scale = message_scale
        self.linear = ConcatenationLinear(width, num_basis, 2 * width)
        self.edge_norm = make_norm(norm, 2 * width)
        self.node_norm = make_norm(norm, width)
        self.core_activation = smooth_activation(core_activation)
        self.outer_activation = smooth_activation(outer_activation)
        self.gate = Tap("edges", "gate", before_envelope=True)

    def forward(
        self,
        node: NodeFeatures,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, "edges 1"],
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> NodeFeatures:
        """Returns the states after one exchange of messages, each times its ``weight``."""
        gate, core = self.edge_norm(self.linear(node, basis, source, target)).chunk(2, dim=-1)
        message = self.gate(torch.sigmoid(gate)) * self.core_activation(core) * weight
        received = segment_sum(message, target, len(node))
        return self.outer_activation(node + self.node_norm(received * self.message_scale))
