"""Weights of GATGNN (github.com/superlouis/GATGNN) under this project's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from epitaxy.foreign.published import PublishedModel, Rule, Unused, count, renamed, shape, task_of

_FAMILY = "GATGNN"
INPUT = {"radius": 8.0, "max_neighbors": 12}


def import_gatgnn(
    weights: Mapping[str, Tensor],
    *,
    attention: str = "composition",
    graph: Mapping[str, Any] | None = None,
) -> PublishedModel:
    """Returns the GATGNN whose parameters are ``weights``; shapes tell its size.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names. They hold both
            global attentions, of which a model uses one.
        attention: Which: ``composition``, ``cluster_fixed`` or ``cluster_random``.
        graph: ``radius`` (Å) and ``max_neighbors`` if they differ from 8 and 12.

    Raises:
        CheckpointError: If a name is foreign to GATGNN or a shape does not fit.
    """
    rules, others = _rules(attention)
    state, unused = renamed(weights, _FAMILY, rules, others)
    layers = count(weights, r"node_att\.(\d+)\.W", _FAMILY)
    for layer in range(layers):
        shape(weights, f"node_att.{layer}.att", _FAMILY)
        name = f"encoder.interaction.{layer}.score"
        state[name] = state[name].squeeze(0)
    settings = {**INPUT, **(graph or {})}
    encoder = {
        "_target_": "epitaxy.encoders.gatgnn.GATGNN",
        "width": shape(weights, "embed_n.weight", _FAMILY)[0],
        "layers": layers,
        "heads": shape(weights, "node_att.0.att", _FAMILY)[1],
        "rule": "nearest",
        "cutoff": float(settings["radius"]),
        "max_neighbors": int(settings["max_neighbors"]),
        "padding": "index0",
        "num_basis": shape(weights, "embed_e.weight", _FAMILY)[1],
        "basis_width": 1.0,
        "envelope": "none",
        "sink": 0.0,
        "norm": "batch",
        "edge_activation": "leaky_relu",
        "attention": attention,
    }
    hidden = [shape(weights, f"linear{n}.weight", _FAMILY)[0] for n in (1, 2)]
    outputs = shape(weights, "out.weight", _FAMILY)[0]
    head = {
        "hidden": tuple(hidden),
        "activation": "softplus",
        "order": "early",
        "outputs": outputs,
    }
    return PublishedModel(_FAMILY, encoder, head, state, task=task_of(outputs), unused=unused)


def _rules(attention: str) -> tuple[list[Rule], list[Unused]]:
    """Returns new names, and what a model with this global attention does not read."""
    by_composition = attention == "composition"
    used, other = ("comp_atten", "cluster_att") if by_composition else ("cluster_att", "comp_atten")
    first = "node_layer1" if by_composition else "layer_1"
    rules = [
        Rule(r"embed_n\.(\w+)", r"encoder.embedding.\1"),
        Rule(r"embed_e\.(\w+)", r"encoder.edge_embedding.\1"),
        Rule(r"node_att\.(\d+)\.W", r"encoder.interaction.\1.project"),
        Rule(r"node_att\.(\d+)\.att", r"encoder.interaction.\1.score"),
        Rule(r"node_att\.(\d+)\.bias", r"encoder.interaction.\1.bias"),
        Rule(r"node_att\.(\d+)\.bn1\.(\w+)", r"encoder.interaction.\1.logit_norm.\2"),
        Rule(r"batch_norm\.(\d+)\.(\w+)", r"encoder.interaction.\1.norm.\2"),
        Rule(rf"{used}\.{first}\.(\w+)", r"encoder.attention.hidden.\1"),
        Rule(rf"{used}\.atten_layer\.(\w+)", r"encoder.attention.out.\1"),
        Rule(r"linear1\.(\w+)", r"head.scalar.hidden.0.\1"),
        Rule(r"linear2\.(\w+)", r"head.scalar.hidden.1.\1"),
        Rule(r"out\.(\w+)", r"head.scalar.out.\1"),
    ]
    unused = [
        Unused(r"node_att\.\d+\.prelu\.weight", "an activation that is never called"),
        Unused(r"embed_comp\.\w+", "embedding of the composition, off by default"),
        Unused(r"cluster_att\.learn_unpool\.\w+", "choice of a learnt cluster"),
        Unused(rf"{other}\..*", f"global attention of another kind than {attention}"),
    ]
    return rules, unused
