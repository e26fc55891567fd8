"""CGCNN as MatDeepLearn has it (Fung et al., npj Comput. Mater. 7, 84, 2021)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import KINKED, ActivationName, activation
from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.concatenation import ConcatenationLinear
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.norms import NormName, make_norm
from epitaxy.encoders.segments import segment_mean
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Rule, Ties
from epitaxy.shapes import Distances, EdgeIndex, NodeFeatures


class MatDeepLearnCGCNN(MessagePassing):
    """Gated convolutions that average over neighbours, as force pre-training uses them.

    For every edge from neighbour ``j`` to centre ``i`` at distance ``d`` ::

        v_i⁰ = a(W_0 onehot(Z_i) + b_0)
        f, s = split(W [v_i ⊕ v_j ⊕ φ(d)] + b)
        v_i' = norm(v_i + Σ_j c(d) sigmoid(f) softplus(s) / (Σ_j c(d) + floor))

    with Gaussians ``φ_k = exp(−½ ((d − μ_k) / (basis_width R))²)``. ``encoding.node`` is the last
    ``v``, (atoms, width). Not the network of Xie & Grossman: one-hot elements, no batch norm
    inside, no outer activation, a mean for the sum.

    In the original (``cgcnn_mdl_paper``) Gaussians are 1.6 Å wide, ``c`` = 1 and ``floor`` = 0, so
    the energy jumps when a neighbour crosses the cutoff or becomes the 251st nearest.
    # Differs from MatDeepLearn in the preset ``cgcnn_mdl``: all neighbours within the cutoff, an
    envelope, narrower Gaussians, layer norms, and a floor of 1 that lets an atom's last neighbour
    leave smoothly.

    Args:
        width: Features per atom.
        layers: Number of convolutions.
        rule: ``radius``, or ``minimum_image`` for MatDeepLearn's ``mdl`` graphs.
        cutoff: ``R`` in Å.
        max_neighbors: Nearest neighbours per atom that count; ``null`` for all within the cutoff.
        max_images: Neighbours more than so many cells away are lost (their configurations have 2);
            ``null`` loses none.
        ties: Which of equally distant neighbours ``max_neighbors`` keeps: ``keep`` all, ``cut``
            the first ones.
        num_basis: Number of Gaussians on [0, ``cutoff``].
        basis_width: Standard deviation of the Gaussians as a share of the cutoff.
        envelope: ``poly6``, ``cosine`` or ``none``.
        floor: See above; 0 is the plain mean.
        norm: After each convolution: ``layer``, ``none``, ``batch`` or ``sync_batch``.
        input_activation: ``a``: ``silu``, ``softplus``, ``relu`` or ``none``.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 100,
        layers: int = 4,
        *,
        rule: Rule = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        max_images: int | None = None,
        ties: Ties = "cut",
        num_basis: int = 50,
        basis_width: float = 0.07,
        envelope: EnvelopeName = "poly6",
        floor: float = 1.0,
        norm: NormName = "layer",
        input_activation: ActivationName = "silu",
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1 or floor < 0:
            raise ConfigError(
                "MatDeepLearn's CGCNN needs width ≥ 1, layers ≥ 1 and floor ≥ 0, got "
                f"{width}, {layers} and {floor}"
            )
        check_envelope(envelope)
        self.spec = GraphSpec(rule, cutoff, max_neighbors, ties=ties, max_images=max_images)
        self.envelope: EnvelopeName = envelope
        self.norm: NormName = norm
        self.node_width = width
        self.features = ElementFeatures("onehot100")
        self.basis = GaussianBasis(
            num_basis, cutoff, width=math.sqrt(2) * basis_width * (num_basis - 1)
        )
        self.smooth = input_activation not in KINKED
        self.activation = activation(input_activation)
        self.embedding = nn.Linear(self.features.width, width)
        self.interaction = nn.ModuleList(
            AveragingConvolution(width, num_basis, norm, floor) for _ in range(layers)
        )
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states.

        Raises:
            RecordError: If an element lies beyond Z = 100 (checked on CPU only; NaN on a GPU).
        """
        graph = batch.graph(self.spec)
        distances = batch.distances(self.spec)
        basis = self.basis(distances)
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff)
        node = self.activation(self.embedding(self.features(batch.numbers)))
        for block in self.interaction:
            node = block(node, basis, weight, graph.source, graph.target)
        return Encoding(node=node)


class AveragingConvolution(nn.Module):
    """One convolution: (atoms, width) → (atoms, width)."""

    def __init__(self, width: int, num_basis: int, norm: NormName, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.linear = ConcatenationLinear(width, num_basis, 2 * width)
        self.norm = make_norm(norm, width)
        self.gate = Tap("edges", "gate", before_envelope=True)

    def forward(
        self,
        node: NodeFeatures,
        basis: Float[Tensor, "edges basis"],
        weight: Distances,
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> NodeFeatures:
        """Returns the states after one exchange of messages, each times its ``weight``."""
        gate, core = self.linear(node, basis, source, target).chunk(2, dim=-1)
        message = self.gate(torch.sigmoid(gate)) * functional.softplus(core)
        received = segment_mean(message, target, len(node), weight, self.floor)
        return self.norm(node + received)
