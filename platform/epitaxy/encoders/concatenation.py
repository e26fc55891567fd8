"""A linear layer on two atoms and their edge, without the concatenation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.shapes import EdgeIndex, NodeFeatures


class ConcatenationLinear(nn.Linear):
    """``W [v_i ⊕ v_j ⊕ e_ij] + b`` for every edge from neighbour ``j`` to centre ``i``.

    ``W`` is applied to its three parts separately, so the two atom parts cost one product per atom
    instead of one per edge. Its columns are in the order centre, neighbour, edge.

    Args:
        width: Features of an atom.
        edge_width: Features of an edge.
        outputs: Features of the result.
        bias: Whether there is a ``b``.
    """

    def __init__(self, width: int, edge_width: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(2 * width + edge_width, outputs, bias=bias)
        self.widths = (width, width, edge_width)

    def forward(  # type: ignore[override]
        self,
        node: NodeFeatures,
        edge: Float[Tensor, "edges edge_width"] | None,
        source: EdgeIndex,
        target: EdgeIndex,
    ) -> Float[Tensor, "edges outputs"]:
        """Returns one row per edge; ``edge`` is ``None`` if its width is 0."""
        center, neighbor, between = self.weight.split(self.widths, dim=1)
        from_center = functional.linear(node, center, self.bias).index_select(0, target)
        from_neighbor = functional.linear(node, neighbor).index_select(0, source)
        both = from_center + from_neighbor
        return both if edge is None else functional.linear(edge, between) + both
