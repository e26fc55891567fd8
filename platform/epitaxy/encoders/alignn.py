"""Atomistic line graph network (Choudhary & DeCost, npj Comput. Mater. 7, 185, 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.basis import EnvelopeName, GaussianBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.norms import NormName, make_norm
from epitaxy.encoders.segments import segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Repeats, Rule
from epitaxy.shapes import Distances, NodeFeatures

Nodes = Float[Tensor, "nodes features"]
Edges = Float[Tensor, "links features"]
Bonds = Float[Tensor, "bonds features"]
Angles = Float[Tensor, "angles features"]
Index = Int[Tensor, " links"]


class ALIGNN(MessagePassing):
    """Updates bonds by the angles between them, and atoms by their bonds.

    Atoms ``x``, bonds ``y`` and angles ``z`` start from element features, Gaussians of distances
    and Gaussians of cosines. ``angular`` layers run an edge-gated convolution on the bonds
    (nodes: atoms) and one on the angles (nodes: bonds); ``plain`` layers the first only.
    ``encoding.node`` is the last ``x``, (atoms, width). See ``EdgeGatedConvolution``.

    The original (``alignn_paper``) takes the 12 nearest neighbours and completes their shell, so
    its energy jumps when ranks change; bonds of an atom to its own images count twice
    (``repeats: self``) and lack their straight angle, so a cell and its supercell differ. Nobody
    reads the last updates of angles and bonds, whose norms therefore never learn.
    # Differs from Choudhary & DeCost in the preset ``alignn``: all neighbours within the cutoff,
    envelopes (angles: the product of those of both bonds, with a shorter cutoff of their own, as
    their number grows with the sixth power of it), layer norms.

    Args:
        width: Features of atoms, bonds and angles.
        embedding_width: Hidden features of the bonds' and angles' first networks.
        angular: Layers with angles.
        plain: Layers without.
        rule: ``radius`` or ``shell``.
        cutoff: Radius in Å (``shell``: the first one tried).
        max_neighbors: For ``shell``: neighbours per atom, before shells are completed.
        repeats: For ``shell``: bonds that occur twice: ``never``, ``self`` or ``mutual``.
        self_angles: Whether a bond of an atom to its own image forms an angle of 180° with itself.
        angle_cutoff: Å. Only bonds shorter than this form angles; ``null`` for all.
        num_basis: Gaussians of distances, on [0, ``basis_stop``].
        basis_stop: Å.
        num_angles: Gaussians of cosines, on [−1, 1].
        envelope: ``poly6``, ``cosine`` or ``none``.
        floor: Added to the sum of gates that divides a message: 1e-6 in the original, about 1 lets
            the last neighbour leave smoothly.
        norm: ``batch``, ``sync_batch``, ``layer`` or ``none``.
        last_updates: Whether the last angles and bonds are updated although nobody reads them.

    Raises:
        ConfigError: If a name is unknown or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 64,
        embedding_width: int = 32,
        angular: int = 2,
        plain: int = 2,
        *,
        rule: Rule = "radius",
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        repeats: Repeats = "never",
        self_angles: bool = True,
        angle_cutoff: float | None = 4.0,
        num_basis: int = 80,
        basis_stop: float = 8.0,
        num_angles: int = 40,
        envelope: EnvelopeName = "poly6",
        floor: float = 1.0,
        norm: NormName = "layer",
        last_updates: bool = False,
    ) -> None:
        super().__init__()
        if angular < 1 or plain < 0 or not floor > 0:
            raise ConfigError(
                "ALIGNN needs angular ≥ 1, plain ≥ 0 and floor > 0, got "
                f"{angular}, {plain} and {floor}"
            )
        check_envelope(envelope)
        self.spec = GraphSpec(
            rule, cutoff, max_neighbors, repeats=repeats, line_graph=True, self_angles=self_angles
        )
        self.envelope: EnvelopeName = envelope
        self.angle_cutoff = angle_cutoff
        self.norm: NormName = norm
        self.last_updates = last_updates
        self.node_width = width
        self.features = ElementFeatures("cgcnn92")
        # γ = 1/Δ, not 1/Δ² (their code): in spacings Δ the width is 1/√Δ.
        self.distance_basis = GaussianBasis(
            num_basis, basis_stop, width=((num_basis - 1) / basis_stop) ** 0.5
        )
        self.angle_basis = GaussianBasis(
            num_angles, 1.0, start=-1.0, width=((num_angles - 1) / 2.0) ** 0.5
        )
        self.embedding = Perceptron(self.features.width, width, norm)
        self.bond_embedding = nn.Sequential(
            Perceptron(num_basis, embedding_width, norm), Perceptron(embedding_width, width, norm)
        )
        self.angle_embedding = nn.Sequential(
            Perceptron(num_angles, embedding_width, norm), Perceptron(embedding_width, width, norm)
        )
        self.interaction = nn.ModuleList(_layers(angular, plain, width, norm, floor, last_updates))
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states.

        Raises:
            RecordError: If an element is not in the feature table (checked on CPU only; NaN on a
                GPU).
        """
        graph = batch.graph(self.spec)
        distances = batch.distances(self.spec)
        bonds = Links(graph.source, graph.target, self._weight(distances, self.spec.cutoff))
        angles, cosines = self._angles(batch, distances)
        atom = self.embedding(self.features(batch.numbers))
        bond = self.bond_embedding(self.distance_basis(distances))
        angle = self.angle_embedding(self.angle_basis(cosines))
        for layer in self.interaction:
            if isinstance(layer, AngularLayer):
                atom, bond, angle = layer(atom, bond, angle, bonds, angles)
            else:
                atom, bond = layer(atom, bond, bonds)
        return Encoding(node=atom)

    def _angles(
        self, batch: CrystalBatch, distances: Distances
    ) -> tuple[Links, Float[Tensor, " angles"]]:
        """Returns pairs of bonds that meet and are short enough, and the cosines between them."""
        line = batch.line_graph(self.spec)
        if self.angle_cutoff is None:
            reach, source, target = self.spec.cutoff, line.source, line.target
            cosines = batch.cosines(self.spec)
        else:
            reach = self.angle_cutoff
            short = distances < reach
            near = short[line.source] & short[line.target]
            source, target = line.source[near], line.target[near]
            cosines = batch.cosines(self.spec, near)
        weight = self._weight(distances, reach)
        if weight is not None:
            weight = weight.index_select(0, source) * weight.index_select(0, target)
        return Links(source, target, weight), cosines

    def _weight(self, distances: Distances, reach: float) -> Distances | None:
        if self.envelope == "none":
            return None
        return cutoff_envelope(self.envelope, distances, reach)


def _layers(
    angular: int, plain: int, width: int, norm: NormName, floor: float, last_updates: bool
) -> Iterator[nn.Module]:
    """Yields layers with angles, then those without."""
    for layer in range(angular):
        read = last_updates or layer < angular - 1
        yield AngularLayer(width, norm, floor, updates_angles=read)
    for layer in range(plain):
        read = last_updates or layer < plain - 1
        yield EdgeGatedConvolution(width, norm, floor, updates_edges=read)


class Links:
    """Directed links between nodes: bonds between atoms, or angles between bonds.

    Attributes:
        source: (links,).
        target: (links,).
        weight: Envelope of each link, (links,), or ``None`` for 1.
    """

    def __init__(self, source: Index, target: Index, weight: Distances | None) -> None:
        self.source, self.target = source, target
        self.weight = weight


class Perceptron(nn.Sequential):
    """Linear layer, norm, silu: (rows, inputs) → (rows, outputs)."""

    def __init__(self, inputs: int, outputs: int, norm: NormName) -> None:
        super().__init__(nn.Linear(inputs, outputs), make_norm(norm, outputs), nn.SiLU())


class EdgeGatedConvolution(nn.Module):
    """Sends gated messages along links.

    For a link ``s → t`` with features ``e`` and envelope ``c`` ::

        m_st = A h_s + B h_t + C e_st,   σ_st = c_st sigmoid(m_st)
        h_t' = h_t + silu(norm(U h_t + Σ_s σ_st D h_s / (Σ_s σ_st + floor)))
        e_st' = e_st + silu(norm(m_st))

    Args:
        width: Features of nodes and links.
        norm: See ``make_norm``.
        floor: See above.
        updates_edges: Whether there is an ``e'`` (else the second result is ``e``).
    """

    def __init__(self, width: int, norm: NormName, floor: float, *, updates_edges: bool) -> None:
        super().__init__()
        self.floor = floor
        self.updates_edges = updates_edges
        self.source_gate = nn.Linear(width, width)
        self.target_gate = nn.Linear(width, width)
        self.edge_gate = nn.Linear(width, width)
        self.keep = nn.Linear(width, width)
        self.send = nn.Linear(width, width)
        self.node_norm = make_norm(norm, width)
        self.edge_norm = make_norm(norm, width) if updates_edges else nn.Identity()
        self.gate = Tap("edges", "gate", before_envelope=True)

    def forward(self, node: Nodes, edge: Edges, links: Links) -> tuple[Nodes, Edges]:
        """Returns the updated nodes and links."""
        gate = self.edge_gate(edge)
        gate = gate + self.source_gate(node).index_select(0, links.source)
        gate = gate + self.target_gate(node).index_select(0, links.target)
        opened = self.gate(torch.sigmoid(gate))
        if links.weight is not None:
            opened = opened * links.weight.unsqueeze(-1)
        message = opened * self.send(node).index_select(0, links.source)
        total = segment_sum(opened, links.target, len(node)) + self.floor
        received = segment_sum(message, links.target, len(node)) / total
        new_node = node + functional.silu(self.node_norm(self.keep(node) + received))
        if not self.updates_edges:
            return new_node, edge
        return new_node, edge + functional.silu(self.edge_norm(gate))


class AngularLayer(nn.Module):
    """A convolution over bonds, then one over angles that updates the bonds once more."""

    def __init__(self, width: int, norm: NormName, floor: float, *, updates_angles: bool) -> None:
        super().__init__()
        self.node_update = EdgeGatedConvolution(width, norm, floor, updates_edges=True)
        self.edge_update = EdgeGatedConvolution(width, norm, floor, updates_edges=updates_angles)
        self.edge_update.gate = Tap("angles", "angle gate", before_envelope=True)

    def forward(
        self, atom: NodeFeatures, bond: Bonds, angle: Angles, bonds: Links, angles: Links
    ) -> tuple[NodeFeatures, Bonds, Angles]:
        """Returns the updated atoms, bonds and angles."""
        atom, bond = self.node_update(atom, bond, bonds)
        bond, angle = self.edge_update(bond, angle, angles)
        return atom, bond, angle
