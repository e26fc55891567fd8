"""MatDeepLearn's copy of the TorchMD-Net transformer in fp64: every layer, forces and stress."""

from __future__ import annotations

import numpy as np
import torch
from published_models import EXACT, Pair, case, close

from epitaxy.encoders.neighborhoods import edges_of

FAMILY = "torchmd_et"


def test_every_layer(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    layers = range(original.published.encoder["layers"])
    modules = {"neighbor_embedding": "neighbors", "node_out": "out_norm"}
    modules |= {f"layer{n}": f"interaction.{n}" for n in layers}
    for name in original.names:
        states = original.states(original.batch(name), modules)
        close(states["neighbor_embedding"], original.vector(name, "neighbor_embedding"), **EXACT)
        close(states["node_out"], original.vector(name, "node_out"), **EXACT)
        for n in layers:
            scalar, vector = states[f"layer{n}"]
            close(scalar, original.vector(name, f"layer{n}_dx"), **EXACT)
            close(vector, original.vector(name, f"layer{n}_dvec"), **EXACT)


def test_unit_vectors_point_from_centre_to_neighbour(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    for name in original.names:
        edges = edges_of(original.batch(name), original.model.encoder.spec)
        source, target = original.vector(name, "edge_index")
        units = original.vector(name, "edge_unit_vec_source_minus_target")
        theirs = np.column_stack([target, source, units])
        ours = np.column_stack([edges.target, edges.source, edges.units])
        np.testing.assert_allclose(in_order(ours), in_order(theirs), rtol=0, atol=1e-9)


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(np.round(rows, 7).T[::-1])]


def test_energy_forces_and_stress(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    for name in original.names:
        results = original.derivatives(original.batch(name))
        for quantity, result in zip(("energy", "forces", "stress"), results, strict=True):
            close(result, original.vector(name, quantity), **EXACT)


def test_a_batch(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    results = original.derivatives(original.batch(*original.vectors["batched/names"].tolist()))
    for quantity, result in zip(("energy", "forces", "stress"), results, strict=True):
        close(result, original.vectors[f"batched/{quantity}"], **EXACT)
