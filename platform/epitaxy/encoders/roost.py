"""Representation learning from stoichiometry (Goodall & Lee, Nat. Commun. 11, 6280, 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.encoders.concatenation import ConcatenationLinear
from epitaxy.encoders.contract import Encoding, Provision, blocks_of
from epitaxy.encoders.elements import ElementFeatures
from epitaxy.encoders.residual import ResidualLayer
from epitaxy.encoders.segments import segment_sum
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.elements import ElementTable
from epitaxy.graph.spec import GraphSpec
from epitaxy.shapes import GraphFeatures, NodeFeatures

Fractions = Float[Tensor, "atoms 1"]
Index = Tensor


class Roost(nn.Module):
    """Reads a composition: elements with their fractions ``w``, and no positions.

    ``h_i = [L_e features(Z_i) ⊕ w_i]``; each layer adds the mean over heads of attention over all
    elements of the composition, the element itself among them; a last attention pools ::

        a_ij = w_j^p exp(g_ij) / (Σ_j w_j^p exp(g_ij) + 1e-10)
        h_i' = h_i + mean over heads of Σ_j a_ij N_m([h_i ⊕ h_j]),   g_ij = N_g([h_i ⊕ h_j])

    with two-layer networks ``N`` and one trainable ``p`` per head. A residual network makes the
    crystal vector ``encoding.graph``, (graphs, trunk[-1]), of it.

    Fe₂O₃ and Fe₄O₆ are the same input, so are all polymorphs of a formula.

    Args:
        width: ``d``, features of an element.
        layers: Attention layers.
        heads: Of each layer and of the pool.
        gate: Hidden widths of ``N_g``.
        message: Hidden widths of ``N_m``.
        trunk: Widths of the residual network; the last is that of the crystal vector.
        features: Table of element features: ``matscholar200``, ``cgcnn92`` or ``onehot100``.

    Raises:
        ConfigError: If a size is impossible or there is no such table.
    """

    spec = GraphSpec("composition")
    provides: frozenset[Provision] = frozenset({"graph", "composition"})
    invariances = frozenset({"rotation", "translation", "permutation", "supercell", "unit_cell"})
    couples_records = False
    node_width = 0
    vector_width = 0

    def __init__(
        self,
        width: int = 64,
        layers: int = 3,
        *,
        heads: int = 3,
        gate: Sequence[int] = (256,),
        message: Sequence[int] = (256,),
        trunk: Sequence[int] = (1024, 512, 256),
        features: ElementTable = "matscholar200",
    ) -> None:
        super().__init__()
        if width < 2 or layers < 0 or heads < 1 or not trunk:
            raise ConfigError(
                "Roost needs width ≥ 2, layers ≥ 0, heads ≥ 1 and a trunk, got "
                f"{width}, {layers}, {heads} and {list(trunk)}"
            )
        self.graph_width = trunk[-1]
        self.features = ElementFeatures(features)
        self.embedding = nn.Linear(self.features.width, width - 1)
        self.interaction = nn.ModuleList(
            ElementAttention(width, heads, gate, message) for _ in range(layers)
        )
        self.pool = nn.ModuleList(
            WeightedPool(width, gate, message, pairs=False) for _ in range(heads)
        )
        self.attention = Tap("atoms", "attention")
        self.trunk = Trunk(width, trunk)
        self.blocks = blocks_of(self)

    def forward(self, batch: CrystalBatch) -> Encoding:
        """Returns the crystal vectors.

        Raises:
            NeedsError: If the batch holds structures: give it graphs of rule ``composition`` only.
            RecordError: If an element is not in the feature table (checked on CPU only; NaN on a
                GPU).
        """
        if batch.amounts is None:
            raise NeedsError("Roost reads compositions; this batch holds structures")
        graph = batch.graph(self.spec)
        total = batch.sizes.index_select(0, batch.graph_index)
        fraction = (batch.amounts / total).unsqueeze(-1)
        node = torch.cat([self.embedding(self.features(batch.numbers)), fraction], dim=-1)
        for block in self.interaction:
            node = block(node, fraction, graph.source, graph.target)
        pooled = [
            head(node, None, fraction, batch.graph_index, batch.num_graphs) for head in self.pool
        ]
        self.attention(torch.stack([share for _, share in pooled], dim=1))
        crystal = torch.stack([vector for vector, _ in pooled]).mean(0)
        return Encoding(graph=self.trunk(crystal))


class ElementAttention(nn.Module):
    """One layer: (elements, width) → (elements, width)."""

    def __init__(self, width: int, heads: int, gate: Sequence[int], message: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            WeightedPool(width, gate, message, pairs=True) for _ in range(heads)
        )
        self.attention = Tap("edges", "attention")

    def forward(
        self, node: NodeFeatures, fraction: Fractions, source: Index, target: Index
    ) -> NodeFeatures:
        """Returns the updated states."""
        received = [head(node, source, fraction, target, len(node)) for head in self.heads]
        self.attention(torch.stack([share for _, share in received], dim=1))
        return node + torch.stack([vector for vector, _ in received]).mean(0)


class WeightedPool(nn.Module):
    """Attention weighed by fractions, over pairs of elements or over single ones.

    Args:
        width: Features of an element, and of the result.
        gate: Hidden widths of the network of logits.
        message: Hidden widths of the network of messages.
        pairs: Whether rows are pairs (the networks see both elements) or elements.
    """

    def __init__(
        self, width: int, gate: Sequence[int], message: Sequence[int], *, pairs: bool
    ) -> None:
        super().__init__()
        self.gate = RowNetwork(width, gate, 1, pairs=pairs)
        self.message = RowNetwork(width, message, width, pairs=pairs)
        self.power = nn.Parameter(torch.randn(1))

    def forward(
        self,
        node: NodeFeatures,
        source: Index | None,
        fraction: Fractions,
        target: Index,
        count: int,
    ) -> tuple[Float[Tensor, "targets width"], Float[Tensor, " rows"]]:
        """Returns the pooled rows of each target, and the share of each row."""
        logits = self.gate(node, source, target)
        message = self.message(node, source, target)
        weight = (fraction if source is None else fraction.index_select(0, source)) ** self.power
        largest = logits.new_full((count, 1), -torch.inf)
        largest = largest.scatter_reduce(0, target.unsqueeze(-1), logits.detach(), "amax")
        raised = weight * torch.exp(logits - largest.index_select(0, target))
        # Added after the largest logit is taken off, as in the original.
        share = raised / (segment_sum(raised, target, count) + 1e-10).index_select(0, target)
        return segment_sum(share * message, target, count), share.squeeze(-1)


class RowNetwork(nn.Module):
    """Layers with leaky ReLUs on rows: pairs ``[h_target ⊕ h_source]``, or elements."""

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, *, pairs: bool) -> None:
        super().__init__()
        widths = (width, *hidden, outputs)
        layers: list[nn.Module] = [nn.Linear(one, other) for one, other in pairwise(widths)]
        if pairs:
            layers[0] = ConcatenationLinear(width, 0, widths[1])
        self.layers = nn.ModuleList(layers)

    def forward(
        self, node: NodeFeatures, source: Index | None, target: Index
    ) -> Float[Tensor, "rows outputs"]:
        """Returns one row per pair (or per element, without ``source``)."""
        first, *others = self.layers
        rows = first(node) if source is None else first(node, None, source, target)
        for layer in others:
            rows = layer(functional.leaky_relu(rows))
        return rows


class Trunk(nn.Module):
    """Residual layers, then a linear one, with ReLUs: (graphs, inputs) → (graphs, widths[-1])."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        hidden = (inputs, *widths[:-1])
        self.hidden = nn.ModuleList(ResidualLayer(one, other) for one, other in pairwise(hidden))
        self.out = nn.Linear(hidden[-1], widths[-1])

    def forward(self, vector: GraphFeatures) -> Float[Tensor, "graphs outputs"]:
        """Returns the crystal vectors."""
        for layer in self.hidden:
            vector = layer(vector, functional.relu)
        return functional.relu(self.out(vector))
