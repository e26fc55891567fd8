"""MatDeepLearn's CGCNN in fp64: hidden states, energy, forces and stress."""

from __future__ import annotations

import numpy as np
import torch
from published_models import EXACT, Pair, case, close

FAMILY = "cgcnn_mdl"


def test_hidden_states(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    blocks = {
        f"conv{n}_out": f"interaction.{n}" for n in range(original.published.encoder["layers"])
    }
    for name in original.names:
        states = original.states(original.batch(name), {"pre_linear": "embedding", **blocks})
        for quantity, state in states.items():
            close(state, original.vector(name, quantity), **EXACT)


def test_energy_forces_and_stress(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    for name in original.names:
        batch = original.batch(name)
        lengths = batch.distances(original.model.encoder.spec)
        close(lengths.sort().values, np.sort(original.vector(name, "edge_dist")), **EXACT)
        results = original.derivatives(batch)
        for quantity, result in zip(("energy", "forces", "stress"), results, strict=True):
            close(result, original.vector(name, quantity), **EXACT)


def test_a_batch(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    batch = original.batch(*original.vectors["batched/names"].tolist())
    results = original.derivatives(batch)
    for quantity, result in zip(("energy", "forces", "stress"), results, strict=True):
        close(result, original.vectors[f"batched/{quantity}"], **EXACT)


def test_the_last_hidden_layer_of_the_head(pair: Pair) -> None:
    original = case(pair, dtype=torch.float64)
    head = original.model.head["scalar"]
    for name in original.names:
        seen: list[torch.Tensor] = []
        handle = head.out.register_forward_pre_hook(
            lambda m, given, seen=seen: seen.append(given[0])
        )
        original.output(original.batch(name))
        handle.remove()
        close(seen[0], original.vector(name, "last_hidden"), **EXACT)
