"""TensorNet: Cartesian tensors for atoms (Simeon & De Fabritiis, NeurIPS 2023)."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.basis import EnvelopeName, ExpNormalBasis, check_envelope, cutoff_envelope
from epitaxy.encoders.contract import Encoding, blocks_of
from epitaxy.encoders.elements import ElementEmbedding
from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.encoders.neighborhoods import Edges, edges_of
from epitaxy.encoders.segments import segment_sum
from epitaxy.encoders.tensors import RANKS, SIZE, directions, pack, squared_norms, unpack
from epitaxy.errors import ConfigError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.spec import GraphSpec
from epitaxy.shapes import AtomicNumbers

Packed = Float[Tensor, "rows 10 width"]


class TensorNet(MessagePassing):
    """Gives each atom ``width`` 3×3 matrices and multiplies those of atoms and neighbours.

    A matrix ``X`` is the sum of a scalar ``I``, an antisymmetric ``A`` (a vector) and a symmetric
    traceless ``S`` (a quadrupole); ``f·X`` scales the three by factors of their own and ``W X``
    mixes channels, each part with weights of its own. With direction ``r̂`` and envelope ``c`` ::

        X_i⁰ = Σ_j c(d) f(φ(d), Z_i, Z_j)·(1 + [r̂]× + (r̂ r̂ᵀ − ⅓)), then scaled by a network of ‖X‖²
        Y    = W (X / (‖X‖² + 1)),  M_i = Σ_j c(d) f(φ(d))·Y_j
        ΔX   = W (B / (‖B‖² + 1)),  B = Y M + M Y,   X ← X + ΔX + ΔX²

    ``encoding.node`` is a layer of (‖I‖², ‖A‖², ‖S‖²), (atoms, width); ``encoding.vector`` the
    vectors of ``A``, (atoms, 3, width). ``Y M + M Y`` keeps reflections too.

    As published (``tensornet_paper``) atoms without neighbours look alike whatever their element.
    # Differs from Simeon & De Fabritiis in the preset ``tensornet``: ``self_term`` adds the element
    to an atom's scalar part, and the envelope has no jump in its second derivative.

    Args:
        width: Matrices per atom.
        layers: Number of interactions.
        cutoff: Radius in Å; all neighbours count.
        num_basis: Number of radial functions.
        envelope: ``poly6`` or ``cosine``.
        self_term: See above.
        num_elements: Rows of the embedding; row = atomic number.

    Raises:
        ConfigError: If a size is impossible or the envelope unknown.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 2,
        *,
        cutoff: float = 5.0,
        num_basis: int = 32,
        envelope: EnvelopeName = "poly6",
        self_term: bool = True,
        num_elements: int = 119,
    ) -> None:
        super().__init__()
        if layers < 1 or width < 1:
            raise ConfigError(f"TensorNet needs width ≥ 1 and layers ≥ 1, got {width} and {layers}")
        check_envelope(envelope)
        self.spec = GraphSpec("radius", cutoff)
        self.envelope: EnvelopeName = envelope
        self.node_width = width
        self.vector_width = width
        self.basis = ExpNormalBasis(num_basis, cutoff, envelope)
        self.embedding = TensorEmbedding(num_elements, width, num_basis, self_term=self_term)
        self.interaction = nn.ModuleList(TensorInteraction(width, num_basis) for _ in range(layers))
        self.readout = nn.Sequential(
            nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.SiLU()
        )
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the atoms' states and vectors.

        Raises:
            RecordError: If an element has no embedding (checked on CPU only; NaN on a GPU).
        """
        edges = edges_of(batch, self.spec)
        basis = self.basis(edges.distances)
        weight = cutoff_envelope(self.envelope, edges.distances, self.spec.cutoff)
        weight = weight.view(-1, 1, 1)
        state = self.embedding(batch.numbers, edges, basis, weight)
        for block in self.interaction:
            state = block(state, edges, basis, weight)
        node = self.readout(torch.cat(squared_norms(state), dim=-1))
        return Encoding(node=node, vector=state[:, 1:4])


class ChannelMix(nn.Module):
    """Mixes the channels of scalars, vectors and quadrupoles, each by weights of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in RANKS)

    def forward(self, state: Packed) -> Packed:
        """Returns the mixed tensors."""
        pieces = zip(self.parts, state.split(RANKS, dim=1), strict=True)
        return torch.cat([part(piece) for part, piece in pieces], dim=1)


class TensorEmbedding(nn.Module):
    """First tensors of atoms from their neighbourhoods: → (atoms, 10, width)."""

    def __init__(self, num_elements: int, width: int, num_basis: int, *, self_term: bool) -> None:
        super().__init__()
        self.elements = ElementEmbedding(num_elements, width)
        self.pair = nn.Linear(2 * width, width)
        self.radial = nn.Linear(num_basis, 3 * width)
        self.own = nn.Linear(width, width) if self_term else nn.Identity()
        self.self_term = self_term
        self.norm = nn.LayerNorm(width)
        self.scale = perceptron(width, 2 * width, 3 * width)
        self.mix = ChannelMix(width)

    def forward(
        self,
        numbers: AtomicNumbers,
        edges: Edges,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, "edges 1 1"],
    ) -> Packed:
        """Returns the tensors."""
        element = self.elements(numbers)
        center, neighbor = self.pair.weight.chunk(2, dim=1)
        pair = functional.linear(element, center, self.pair.bias).index_select(0, edges.target)
        pair = pair + functional.linear(element, neighbor).index_select(0, edges.source)
        factors = by_rank(self.radial(basis)) * pair.unsqueeze(1) * weight
        message = spread(factors) * directions(edges.units).unsqueeze(-1)
        state = segment_sum(message, edges.target, len(numbers))
        if self.self_term:
            own = functional.pad(self.own(element).unsqueeze(1), (0, 0, 0, SIZE - 1))
            state = state + own
        scale = self.scale(self.norm(torch.stack(squared_norms(state)).sum(0)))
        return self.mix(state) * spread(by_rank(scale))


class TensorInteraction(nn.Module):
    """One exchange of tensors: (atoms, 10, width) → (atoms, 10, width)."""

    def __init__(self, width: int, num_basis: int) -> None:
        super().__init__()
        self.radial = perceptron(num_basis, width, 2 * width, 3 * width)
        self.before = ChannelMix(width)
        self.after = ChannelMix(width)

    def forward(
        self,
        state: Packed,
        edges: Edges,
        basis: Float[Tensor, "edges basis"],
        weight: Float[Tensor, "edges 1 1"],
    ) -> Packed:
        """Returns the updated tensors."""
        state = bounded(state)
        mixed = self.before(state)
        factors = spread(by_rank(self.radial(basis)) * weight)
        message = segment_sum(
            factors * mixed.index_select(0, edges.source), edges.target, len(state)
        )
        own, received = unpack(mixed), unpack(message)
        change = self.after(bounded(pack(own @ received + received @ own)))
        matrix = unpack(change)
        return state + change + pack(matrix @ matrix)


def perceptron(*widths: int) -> nn.Sequential:
    """Returns linear layers, each followed by a silu."""
    layers: list[nn.Module] = []
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.SiLU()]
    return nn.Sequential(*layers)


def by_rank(factors: Float[Tensor, "rows three_width"]) -> Float[Tensor, "rows 3 width"]:
    """Returns one row of factors for scalars, vectors and quadrupoles each."""
    return factors.view(len(factors), 3, factors.shape[1] // 3)


def spread(factors: Float[Tensor, "rows 3 width"]) -> Packed:
    """Returns the factor of each of the ten components."""
    repeats = torch.tensor(RANKS, device=factors.device)
    return factors.repeat_interleave(repeats, dim=1, output_size=SIZE)


def bounded(state: Packed) -> Packed:
    """Returns ``X / (‖X‖² + 1)``."""
    return state / (torch.stack(squared_norms(state)).sum(0) + 1.0).unsqueeze(1)
