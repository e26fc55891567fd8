"""Weights of the CGCNN and the equivariant transformer of github.com/Fung-Lab/MatDeepLearn_dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from epitaxy.foreign.published import PublishedModel, Rule, Unused, count, renamed, shape

INPUT = {"radius": 8.0, "max_neighbors": 250, "max_images": None}
"""Graph of the force pre-training paper (Å); its shipped configuration also has max_images 2."""

_PROJECTIONS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "dk_proj": "distance_key",
    "dv_proj": "distance_value",
    "vec_proj": "mix",
    "o_proj": "output",
    "layernorm": "norm",
}


def import_mdl_cgcnn(
    weights: Mapping[str, Tensor],
    *,
    graph: Mapping[str, Any] | None = None,
    order: str = "early",
    pool: str = "sum",
) -> PublishedModel:
    """Returns MatDeepLearn's CGCNN.

    Args:
        weights: Parameters under the authors' names.
        graph: ``radius`` (Å), ``max_neighbors``, ``max_images`` if they differ from 8, 250, None.
        order: ``early`` pools before the last layers, ``late`` after them.
        pool: ``sum``, ``mean`` or ``max``.

    Raises:
        CheckpointError: If a name is foreign to the model or a shape does not fit.
    """
    family = "MatDeepLearn CGCNN"
    joined = dict(weights)
    layers = count(weights, r"conv_list\.(\d+)\.lin_f\.weight", family)
    for layer in range(layers):
        for kind in ("weight", "bias"):
            halves = [f"conv_list.{layer}.lin_{half}.{kind}" for half in ("f", "s")]
            for half in halves:
                shape(weights, half, family)
            joined[f"conv_list.{layer}.linear.{kind}"] = torch.cat([joined.pop(h) for h in halves])
    posts = count(weights, r"post_lin_list\.(\d+)\.weight", family)
    rules = (
        Rule(r"pre_lin_list\.0\.(weight|bias)", r"encoder.embedding.\1"),
        Rule(r"conv_list\.(\d+)\.linear\.(weight|bias)", r"encoder.interaction.\1.linear.\2"),
        Rule(r"bn_list\.(\d+)\.(?:module\.)?(\w+)", r"encoder.interaction.\1.norm.\2"),
        Rule(r"post_lin_list\.(\d+)\.(weight|bias)", r"head.scalar.hidden.\1.\2"),
        Rule(r"lin_out\.(weight|bias)", r"head.scalar.out.\1"),
    )
    fixed = Unused(r"distance_expansion\.offset", "centres of fixed Gaussians")
    state, unused = renamed(joined, family, rules, (fixed,))
    width = shape(weights, "pre_lin_list.0.weight", family)[0]
    encoder = {
        "_target_": "epitaxy.encoders.cgcnn_mdl.MatDeepLearnCGCNN",
        "width": width,
        "layers": layers,
        **_graph(graph),
        "num_basis": shape(weights, "conv_list.0.lin_f.weight", family)[1] - 2 * width,
        "basis_width": 0.2,
        "envelope": "none",
        "floor": 0.0,
        "norm": "batch" if any(name.startswith("bn_list.") for name in weights) else "none",
        "input_activation": "silu",
    }
    hidden = [shape(weights, f"post_lin_list.{n}.weight", family)[0] for n in range(posts)]
    outputs = shape(weights, "lin_out.weight", family)[0]
    head = _head(hidden, outputs, order, pool)
    return PublishedModel(family, encoder, head, state, task="regression", unused=unused)


def import_equivariant_transformer(
    weights: Mapping[str, Tensor],
    *,
    heads: int = 8,
    graph: Mapping[str, Any] | None = None,
    pool: str = "sum",
) -> PublishedModel:
    """Returns MatDeepLearn's copy of the TorchMD-Net equivariant transformer (pooled early).

    Args:
        weights: Parameters under the authors' names.
        heads: Attention heads, which no shape tells.
        graph: As for ``import_mdl_cgcnn``.
        pool: ``sum``, ``mean`` or ``max``.

    Raises:
        CheckpointError: If a name is foreign to the model or a shape does not fit.
    """
    family = "equivariant transformer"
    last = count(weights, r"post_lin_list\.(\d+)\.weight", family) - 1
    shape(weights, f"post_lin_list.{last}.weight", family)
    rules = (
        Rule(r"distance_expansion\.(means|betas)", r"encoder.basis.\1"),
        Rule(r"embedding\.weight", "encoder.embedding.weight"),
        Rule(r"neighbor_embedding\.embedding\.weight", "encoder.neighbors.embedding.weight"),
        Rule(r"neighbor_embedding\.distance_proj\.(\w+)", r"encoder.neighbors.distance.\1"),
        Rule(r"neighbor_embedding\.combine\.(\w+)", r"encoder.neighbors.combine.\1"),
        *(
            Rule(rf"attention_layers\.(\d+)\.{old}\.(\w+)", rf"encoder.interaction.\1.{new}.\2")
            for old, new in _PROJECTIONS.items()
        ),
        Rule(r"out_norm\.(\w+)", r"encoder.out_norm.\1"),
        Rule(rf"post_lin_list\.{last}\.(\w+)", r"head.scalar.out.\1"),
        Rule(r"post_lin_list\.(\d+)\.(\w+)", r"head.scalar.hidden.\1.\2"),
    )
    state, unused = renamed(weights, family, rules, ())
    rows, width = shape(weights, "embedding.weight", family)
    encoder = {
        "_target_": "epitaxy.encoders.torchmd_et.EquivariantTransformer",
        "width": width,
        "layers": count(weights, r"attention_layers\.(\d+)\.q_proj\.weight", family),
        "heads": heads,
        **_graph(graph),
        "num_basis": shape(weights, "distance_expansion.means", family)[0],
        "envelope": "cosine",
        "vector_cutoff": False,
        "own_images": False,
        "num_elements": rows,
    }
    hidden = [shape(weights, f"post_lin_list.{n}.weight", family)[0] for n in range(last)]
    outputs = shape(weights, f"post_lin_list.{last}.weight", family)[0]
    head = _head(hidden, outputs, "early", pool)
    return PublishedModel(family, encoder, head, state, task="regression", unused=unused)


def _graph(graph: Mapping[str, Any] | None) -> dict[str, Any]:
    settings = {**INPUT, **(graph or {})}
    return {
        "cutoff": float(settings["radius"]),
        "max_neighbors": settings["max_neighbors"],
        "max_images": settings["max_images"],
    }


def _head(hidden: Sequence[int], outputs: int, order: str, pool: str) -> dict[str, Any]:
    return {
        "hidden": tuple(hidden),
        "activation": "silu",
        "order": order,
        "pool": pool,
        "outputs": outputs,
    }
