"""The energy of a crystal as a sum over its atoms, which objectives differentiate."""

from __future__ import annotations

from collections.abc import Sequence

from epitaxy.encoders.activations import ActivationName
from epitaxy.encoders.contract import Encoder, Encoding
from epitaxy.graph.batch import CrystalBatch
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import Order, ScalarHead
from epitaxy.shapes import GraphScalars

ROLE = "scalar"
"""Of the energy's head; regression of one label has the same, so that weights go from one on."""


def energy_head(
    encoder: Encoder, hidden: Sequence[int], activation: ActivationName, order: Order
) -> ScalarHead:
    """Returns a head that adds up the atoms' numbers; only the order ``late`` is extensive."""
    return ScalarHead(encoder.node_width, hidden, activation=activation, order=order, pool="sum")


def network_energy(model: Model, batch: CrystalBatch) -> GraphScalars:
    """Returns what the head makes of the atoms' states, whatever unit that is in."""
    # Not a crystal vector of the encoder's own: energies are sums over atoms.
    atoms = Encoding(node=model.encoder(batch).node)
    result: GraphScalars = model.head[ROLE](atoms, batch)
    return result
