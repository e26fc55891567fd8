"""GATGNN with composition attention: attention layers, global attention, outputs."""

from __future__ import annotations

import numpy as np
from published_models import HIDDEN, OUTPUT, Pair, case, close

FAMILY = "gatgnn"


def test_layers_and_attention(pair: Pair) -> None:
    original = case(pair)
    layers = range(original.published.encoder["layers"])
    for name in original.names:
        batch = original.batch(name)
        distances = batch.distances(original.model.encoder.spec).reshape(-1, 12)
        close(distances, np.sort(original.vector(name, "nbr_dist"), axis=1), rtol=0.0, atol=2e-6)
        seen = original.states(batch, {"global_attention": "tap"})
        close(seen["global_attention"], original.vector(name, "global_attention"), **HIDDEN)
        for n in layers:  # theirs is before the batch norm
            before: list[object] = []
            norm = original.model.encoder.interaction[n].norm
            handle = norm.register_forward_pre_hook(lambda m, given, to=before: to.append(given[0]))
            original.output(batch)
            handle.remove()
            close(before[0], original.vector(name, f"agat{n}_out"), **HIDDEN)


def test_outputs(pair: Pair) -> None:
    original = case(pair)
    for name in original.names:
        close(original.output(original.batch(name)), original.vector(name, "out"), **OUTPUT)
    names = original.vectors["batched/names"].tolist()
    close(original.output(original.batch(*names)), original.vectors["batched/out"], **OUTPUT)


def test_what_the_file_holds_in_vain_is_named(pair: Pair) -> None:
    unused = case(pair).published.unused
    assert {name.split(".")[0] for name in unused} == {"node_att", "embed_comp", "cluster_att"}
    assert all("prelu" in name for name in unused if name.startswith("node_att"))
