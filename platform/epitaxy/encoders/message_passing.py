"""What encoders have in common that pass messages along the edges of a geometric graph."""

from __future__ import annotations

from torch import nn

from epitaxy.encoders.basis import EnvelopeName
from epitaxy.encoders.contract import Provision
from epitaxy.encoders.invariances import invariances_of
from epitaxy.encoders.norms import COUPLING, NormName
from epitaxy.graph.spec import GraphSpec


class MessagePassing(nn.Module):
    """Answers for an encoder what follows from its graph, widths, envelope and norms.

    Attributes:
        spec: The graph it reads.
        envelope: What switches an edge off at the cutoff.
        norm: Its norms; batch norms couple the records of a batch in training.
        smooth: Whether all of its functions of distance are twice differentiable.
        node_width: Width of ``Encoding.node``.
        graph_width: Width of ``Encoding.graph``.
        vector_width: Width of ``Encoding.vector``.
    """

    spec: GraphSpec
    envelope: EnvelopeName
    norm: NormName = "none"
    smooth: bool = True
    node_width: int
    graph_width: int = 0
    vector_width: int = 0

    @property
    def provides(self) -> frozenset[Provision]:
        """What has a width; derivatives too, without ranks of neighbours and kinks of functions."""
        widths: dict[Provision, int] = {
            "node": self.node_width,
            "graph": self.graph_width,
            "vector": self.vector_width,
        }
        provided = {name for name, width in widths.items() if width}
        if self.smooth and self.spec.rule in ("radius", "minimum_image"):
            provided.add("position_grad")
        return frozenset(provided)

    @property
    def invariances(self) -> frozenset[str]:
        """What holds in eval mode (of scalars; vectors turn with the crystal)."""
        return invariances_of(self.spec, self.envelope)

    @property
    def couples_records(self) -> bool:
        """Whether batch statistics tie the crystals of a training batch together."""
        return self.norm in COUPLING
