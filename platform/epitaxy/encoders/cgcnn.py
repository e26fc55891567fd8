"""Crystal graph convolutional network (Xie & Grossman, Phys. Rev. Lett. 120, 145301, 2018)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.activations import ActivationName, activation
from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.contract import Encoding, Provision
from epitaxy.encoders.norms import COUPLING, NormName, make_norm
from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.elements import atom_features, known_elements
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.shapes import AtomicNumbers, Distances, EdgeIndex, NodeFeatures

Rule = Literal["radius", "nearest"]
Padding = Literal["index0", "masked"]


class CGCNN(nn.Module):
    """Crystal graph network whose messages are gated by both atoms and their distance.

    For every edge from neighbour ``j`` to centre ``i`` at distance ``d`` ::

        v_i⁰ = W_e x(Z_i) + b_e
        f, s = split(norm_edge(W [v_i ⊕ v_j ⊕ φ(d)] + b))
        m_i  = scale · Σ_j  c(d) · sigmoid(f) · g(s)
        v_i' = h(v_i + norm_node(m_i))

    with element features ``x`` (92 binned properties, the table of Xie & Grossman), Gaussians
    ``φ``, envelope ``c``, core activation ``g`` and outer activation ``h``. ``encoding.node`` is
    the last ``v``, (atoms, width). ``W`` is applied to its three parts separately, so the two
    atom parts cost one product per atom instead of one per edge.

    The original (``cgcnn_paper``) has ``c`` = 1, ``scale`` = 1, ``g`` = ``h`` = softplus, batch
    norms, and the 12 nearest neighbours; both norms and ``h`` are in the authors' code, not in
    the paper's equation. Its energy jumps whenever two neighbours change rank.
    # Differs from Xie & Grossman 2018 in the preset ``cgcnn``: all neighbours within the cutoff,
    an envelope, a constant ``scale`` in place of the norms. So the energy is smooth, twice
    differentiable, and additive over distant fragments.

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

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    features: Tensor

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
        self.blocks = ("embedding", *(f"interaction.{index}" for index in range(layers)))
        self.register_buffer("features", _feature_table(), persistent=False)
        self.embedding = nn.Linear(self.features.shape[1], width)
        self.basis = GaussianBasis(num_basis, cutoff, start=basis_start, width=basis_width)
        self.interaction = nn.ModuleList(
            GatedConvolution(
                width, num_basis, norm, message_scale, core_activation, outer_activation
            )
            for _ in range(layers)
        )

    @property
    def provides(self) -> frozenset[Provision]:
        """Node states; energies are differentiable unless neighbours are ranked."""
        smooth_ranks = self.spec.rule == "radius"
        return frozenset({"node", "position_grad"} if smooth_ranks else {"node"})

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode; where ties are cut, the numbering of atoms decides."""
        held = {"rotation", "translation"}
        if self.spec.completes_shells:
            held |= {"permutation", "supercell"}
        if self.spec.max_neighbors is None and self.envelope != "none":
            held.add("smooth_cutoff")
        return frozenset(held)

    @property
    def couples_records(self) -> bool:
        """Whether batch statistics tie the crystals of a training batch together."""
        return self.norm in COUPLING

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states.

        Raises:
            RecordError: If an element is not in the feature table (checked on CPU only; on a GPU
                its states are NaN, which stops training).
        """
        graph = batch.graph(self.spec)
        distances = self.distances(batch)
        basis = self.basis(distances)
        weight = cutoff_envelope(self.envelope, distances, self.spec.cutoff).unsqueeze(-1)
        node = self._embed(batch.numbers)
        for block in self.interaction:
            node = block(node, basis, weight, graph.source, graph.target)
        return Encoding(node=node)

    def _embed(self, numbers: AtomicNumbers) -> NodeFeatures:
        features = self.features[numbers.long()]
        if features.device.type == "cpu":
            _check_known(numbers, features)
        return self.embedding(features)

    def distances(self, batch: CrystalBatch) -> Distances:
        """Returns edge lengths, (edges,) in Å; fill edges have ``cutoff`` + 1, no gradient."""
        squared = batch.edge_vectors(self.spec).square().sum(-1)
        padded = batch.graph(self.spec).padded
        if padded is not None:
            squared = torch.where(padded, (self.spec.cutoff + 1.0) ** 2, squared)
        return squared.sqrt()


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
        self.width = width
        self.message_scale = message_scale
        self.linear = nn.Linear(2 * width + num_basis, 2 * width)
        self.edge_norm = make_norm(norm, 2 * width)
        self.node_norm = make_norm(norm, width)
        self.core_activation = activation(core_activation)
        self.outer_activation = activation(outer_activation)

    def forward(
        self,
        node: NodeFeatures,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, "edges 1"],
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> NodeFeatures:
        """Returns the states after one exchange of messages, each times its ``weight``."""
        gates = self.edge_norm(self._gates(node, basis, source, target))
        gate, core = gates.chunk(2, dim=-1)
        message = torch.sigmoid(gate) * self.core_activation(core) * weight
        received = torch.zeros_like(node).index_add(0, target, message)
        return self.outer_activation(node + self.node_norm(received * self.message_scale))

    def _gates(
        self,
        node: NodeFeatures,
        basis: Float[Tensor, "edges basis"],
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> Float[Tensor, "edges gates"]:
        """Returns ``W [v_i ⊕ v_j ⊕ φ] + b``, the atom parts once per atom."""
        center, neighbor, edge = self.linear.weight.split(
            (self.width, self.width, basis.shape[1]), dim=1
        )
        from_center = functional.linear(node, center, self.linear.bias)
        from_neighbor = functional.linear(node, neighbor)
        per_edge = functional.linear(basis, edge)
        return (
            per_edge + from_center.index_select(0, target) + from_neighbor.index_select(0, source)
        )


def _feature_table() -> Float[Tensor, "elements features"]:
    """Returns the element features, row = atomic number, NaN where the element has none."""
    table = np.array(atom_features("cgcnn92"), dtype=np.float32)
    known = set(known_elements("cgcnn92"))
    table[[number for number in range(len(table)) if number not in known]] = np.nan
    return torch.from_numpy(table)


def _check_known(numbers: AtomicNumbers, features: Float[Tensor, "atoms features"]) -> None:
    missing = torch.isnan(features[:, 0])
    if bool(missing.any()):
        unknown = sorted(set(numbers[missing].tolist()))
        raise RecordError(
            f"CGCNN has no features for atomic number(s) {unknown}: its table ends at Z = 100; "
            "leave out the records that contain them"
        )
