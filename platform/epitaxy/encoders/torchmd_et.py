"""Equivariant transformer of TorchMD-Net (Thölke & De Fabritiis, ICLR 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.basis import EnvelopeName, ExpNormalBasis, cutoff_envelope
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementEmbedding
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.neighborhoods import Edges, edges_of
from epitaxy.encoders.segments import segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec, Ties
from epitaxy.shapes import AtomicNumbers, NodeFeatures

Vectors = Float[Tensor, "atoms 3 features"]


class EquivariantTransformer(MessagePassing):
    """Attention between atoms that carry a scalar state ``x`` and a vector state ``v``.

    ``x⁰`` mixes an embedding of the element with those of its neighbours, ``v⁰`` = 0. Each layer,
    with ``s = LayerNorm(x)``, heads of width ``d_h`` and ``r̂`` from centre ``i`` to neighbour
    ``j`` ::

        a_ij       = silu(Σ q_i k_j silu(L_dk φ(d))) c(d)                 per head
        s1, s2, s3 = split(L_v s_j · silu(L_dv φ(d)))  [· c(d) if vector_cutoff]
        m_i        = Σ_j a_ij s1,    w_i = Σ_j v_j s2 + r̂_ij s3
        u1, u2, u3 = L_u v,          o1, o2, o3 = L_o m
        x ← x + ⟨u1, u2⟩ o2 + o3,    v ← v + u3 o1 + w

    ``encoding.node`` is ``LayerNorm(x)``, (atoms, width), and ``encoding.vector`` is ``v``,
    (atoms, 3, width), which turns with the crystal. ``c`` is the envelope, ``φ`` exponential
    normals with a trainable shape.

    In the original (``torchmd_et_paper``) ``L_dv`` has a bias that no envelope switches off: the
    vectors jump a little where a neighbour crosses the cutoff. Its embedding of neighbours leaves
    out an atom's own images, which are other atoms in a larger cell. ``L_u`` of the first layer
    acts on ``v⁰`` = 0 and never learns.
    # Differs from TorchMD-Net in the preset ``torchmd_et``: ``vector_cutoff``, ``own_images``, an
    envelope whose second derivative vanishes too, all neighbours within 5 Å, fewer layers.

    Args:
        width: ``d``, features per atom; a multiple of ``heads``.
        layers: Number of layers.
        heads: Attention heads.
        cutoff: Radius in Å.
        max_neighbors: Nearest neighbours per atom that count; ``null`` for all within the cutoff.
        max_images: Neighbours more than so many cells away are lost; ``null`` loses none.
        ties: Which of equally distant neighbours ``max_neighbors`` keeps: ``keep`` all, ``cut``
            the first ones.
        num_basis: Number of radial functions.
        envelope: ``c``: ``cosine`` or ``poly6``.
        vector_cutoff: Whether ``c`` also multiplies the vector messages.
        own_images: Whether an atom's images count among its neighbours in the first embedding.
        self_loops: Whether an atom attends to itself at distance 0, as in torchmd-net's own graphs;
            MatDeepLearn's have none.
        num_elements: Rows of the embeddings; row = atomic number.

    Raises:
        ConfigError: If ``heads`` does not divide ``width``, or the graph rule is impossible.
    """

    def __init__(
        self,
        width: int = 128,
        layers: int = 4,
        *,
        heads: int = 8,
        cutoff: float = 5.0,
        max_neighbors: int | None = None,
        max_images: int | None = None,
        ties: Ties = "cut",
        num_basis: int = 50,
        envelope: EnvelopeName = "poly6",
        vector_cutoff: bool = True,
        own_images: bool = True,
        self_loops: bool = False,
        num_elements: int = 119,
    ) -> None:
        super().__init__()
        if layers < 1 or heads < 1 or width < 1 or width % heads:
            raise ConfigError(
                "the equivariant transformer needs layers ≥ 1 and a width that heads divides, got "
                f"layers={layers}, width={width}, heads={heads}"
            )
        self.spec = GraphSpec("radius", cutoff, max_neighbors, ties=ties, max_images=max_images)
        self.envelope: EnvelopeName = envelope
        self.vector_cutoff = vector_cutoff
        self.own_images = own_images
        self.self_loops = self_loops
        self.node_width = width
        self.vector_width = width
        self.basis = ExpNormalBasis(num_basis, cutoff, envelope)
        self.embedding = ElementEmbedding(num_elements, width)
        self.neighbors = NeighborEmbedding(num_elements, width, num_basis, own_images=own_images)
        self.interaction = nn.ModuleList(
            EquivariantAttention(width, heads, num_basis, vector_cutoff=vector_cutoff)
            for _ in range(layers)
        )
        self.out_norm = nn.LayerNorm(width)
        self.blocks = blocks_of(self)

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode (of ``node``; ``vector`` turns with the crystal)."""
        held = super().invariances
        if not self.own_images:
            held -= {"supercell"}
        return held if self.vector_cutoff else held - {"smooth_cutoff"}

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states and vectors.

        Raises:
            RecordError: If an element has no embedding (checked on CPU only; NaN on a GPU).
        """
        edges = edges_of(batch, self.spec, self_loops=self.self_loops)
        basis = self.basis(edges.distances)
        weight = cutoff_envelope(self.envelope, edges.distances, self.spec.cutoff)
        node = self.neighbors(self.embedding(batch.numbers), batch.numbers, edges, basis, weight)
        vector = node.new_zeros(len(node), 3, self.node_width)
        for block in self.interaction:
            node_change, vector_change = block(node, vector, edges, basis, weight)
            node, vector = node + node_change, vector + vector_change
        return Encoding(node=self.out_norm(node), vector=vector)


class NeighborEmbedding(nn.Module):
    """``L_c [x_i ⊕ Σ_j Emb(Z_j) (L_d φ(d)) c(d)]``: (atoms, width) → (atoms, width)."""

    def __init__(self, num_elements: int, width: int, num_basis: int, *, own_images: bool) -> None:
        super().__init__()
        self.own_images = own_images
        self.embedding = ElementEmbedding(num_elements, width)
        self.distance = nn.Linear(num_basis, width)
        self.combine = nn.Linear(2 * width, width)
        for linear in (self.distance, self.combine):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        node: NodeFeatures,
        numbers: AtomicNumbers,
        edges: Edges,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, " edges"],
    ) -> NodeFeatures:
        """Returns the first states of atoms."""
        filters = self.distance(basis) * weight.unsqueeze(-1)
        counted = edges.distances > 0 if self.own_images else edges.source != edges.target
        filters = filters * counted.unsqueeze(-1)
        message = self.embedding(numbers).index_select(0, edges.source) * filters
        received = segment_sum(message, edges.target, len(node))
        return self.combine(torch.cat([node, received], dim=-1))


class EquivariantAttention(nn.Module):
    """One layer: the changes of states and vectors."""

    def __init__(self, width: int, heads: int, num_basis: int, *, vector_cutoff: bool) -> None:
        super().__init__()
        self.heads = heads
        self.vector_cutoff = vector_cutoff
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, 3 * width)
        self.distance_key = nn.Linear(num_basis, width)
        self.distance_value = nn.Linear(num_basis, 3 * width)
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, 3 * width)
        self.attention = Tap("edges", "attention")
        for linear in self.children():
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def forward(
        self,
        node: NodeFeatures,
        vector: Vectors,
        edges: Edges,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, " edges"],
    ) -> tuple[NodeFeatures, Vectors]:
        """Returns what is added to ``node`` and ``vector``."""
        state = self.norm(node)
        first, second, third = self.mix(vector).chunk(3, dim=-1)
        scalar, along = self._messages(state, vector, edges, basis, weight)
        one, two, three = self.output(scalar).chunk(3, dim=-1)
        node_change = (first * second).sum(1) * two + three
        return node_change, third * one.unsqueeze(1) + along

    def _messages(
        self,
        state: NodeFeatures,
        vector: Vectors,
        edges: Edges,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, " edges"],
    ) -> tuple[NodeFeatures, Vectors]:
        """Returns what each atom receives: scalars ``m`` and vectors ``w``."""
        count, width = state.shape
        by_head = (-1, self.heads, width // self.heads)
        query = self.query(state).index_select(0, edges.target)
        key = self.key(state).index_select(0, edges.source)
        agreement = query * key * functional.silu(self.distance_key(basis))
        attention = functional.silu(agreement.view(by_head).sum(-1)) * weight.unsqueeze(-1)
        attention = self.attention(attention)
        value = self.value(state).index_select(0, edges.source)
        value = value * functional.silu(self.distance_value(basis))
        if self.vector_cutoff:
            value = value * weight.unsqueeze(-1)
        # The three parts lie side by side within each head.
        parts = value.view(-1, self.heads, 3, width // self.heads).unbind(2)
        scalar = (parts[0] * attention.unsqueeze(-1)).reshape(-1, width)
        inherited, radial = (part.reshape(-1, 1, width) for part in parts[1:])
        along = vector.index_select(0, edges.source) * inherited
        along = along + edges.units.unsqueeze(-1) * radial
        return segment_sum(scalar, edges.target, count), segment_sum(along, edges.target, count)
