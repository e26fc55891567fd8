"""The encoder of CrysGNN and of CrysXPP's auto-encoder: states, with and without unit length."""

from __future__ import annotations

import torch
from published_models import HIDDEN, OUTPUT, Pair, case, close

from epitaxy.encoders.pooling import pool

FAMILY = "crysgnn"


def test_states_and_the_mean_of_those_of_unit_length(pair: Pair) -> None:
    plain, normalised = case(pair, unit_length=False), case(pair, unit_length=True)
    for name in plain.names:
        batch = plain.batch(name)
        with torch.no_grad():
            close(plain.model.encoder(batch).node, plain.vector(name, "node_states"), **HIDDEN)
            node = normalised.model.encoder(batch).node
        close(node, plain.vector(name, "node_states_l2"), **OUTPUT)
        crystal = pool("mean", node, batch)
        close(crystal, plain.vector(name, "graph_embedding"), **OUTPUT)


def test_decoders_are_left_out_by_name(pair: Pair) -> None:
    unused = case(pair).published.unused
    assert {"fc_adj.weight", "fc1.weight", "fc_atom_feature.weight"} <= set(unused)
