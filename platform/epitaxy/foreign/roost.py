"""Weights of Roost (github.com/CompRhys/roost) under this project's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from epitaxy.errors import CheckpointError
from epitaxy.foreign.published import PublishedModel, Rule, Task, count, renamed, shape

_FAMILY = "Roost"
_TABLES = {200: "matscholar200", 92: "cgcnn92"}
"""Element features by their width."""


def import_roost(
    weights: Mapping[str, Tensor], *, robust: bool = False, mean: float = 0.0, std: float = 1.0
) -> PublishedModel:
    """Returns the Roost whose parameters are ``weights``; shapes tell its size.

    Args:
        weights: Parameters under the authors' names.
        robust: Whether the second half of the outputs are logarithms of the standard deviations
            of the first, which classifiers do without.
        mean: Of the training labels.
        std: Of the training labels.

    Raises:
        CheckpointError: If a name is foreign to Roost, a shape does not fit, or the file is of a
            model with several tasks.
    """
    if "output_nns.1.fc_out.weight" in weights:
        raise CheckpointError("this Roost has several output networks: import one task at a time")
    rules, sizes = _rules(weights)
    state, unused = renamed(weights, _FAMILY, rules, ())
    outputs = shape(weights, "output_nns.0.fc_out.weight", _FAMILY)[0]
    regression = outputs == 1 + robust
    if robust and not regression:  # logits of classes: their deviations have no use here
        outputs //= 2
        for kind in ("weight", "bias"):
            shape(weights, f"output_nns.0.fc_out.{kind}", _FAMILY)
            name = f"head.scalar.out.{kind}"
            state[name] = state[name][:outputs]
        unused["output_nns.0.fc_out (second half)"] = "logarithm of the model's own error estimate"
    encoder = _encoder(weights, sizes)
    head = {
        "hidden": _widths(weights, "output_nns.0"),
        "activation": "relu",
        "order": "early",
        "residual": True,
        "outputs": outputs,
    }
    task: Task = "regression" if regression else "classification"
    predicts_deviation = robust and regression
    return PublishedModel(
        _FAMILY, encoder, head, state, mean, std, task, unused, predicts_deviation
    )


def _rules(weights: Mapping[str, Tensor]) -> tuple[list[Rule], dict[str, list[int]]]:
    """Returns new names, and the hidden widths of the gates and messages."""
    networks = {"gate_nn": "gate", "message_nn": "message"}
    rules = [
        Rule(r"material_nn\.embedding\.(\w+)", r"encoder.embedding.\1"),
        Rule(
            r"material_nn\.graphs\.(\d+)\.pooling\.(\d+)\.pow",
            r"encoder.interaction.\1.heads.\2.power",
        ),
        Rule(r"material_nn\.cry_pool\.(\d+)\.pow", r"encoder.pool.\1.power"),
        Rule(r"trunk_nn\.fc_out\.(\w+)", r"encoder.trunk.out.\1"),
        Rule(r"output_nns\.0\.fc_out\.(\w+)", r"head.scalar.out.\1"),
    ]
    sizes: dict[str, list[int]] = {}
    for old, new in networks.items():
        prefix = f"material_nn.cry_pool.0.{old}.fcs"
        depth = count(weights, rf"{re.escape(prefix)}\.(\d+)\.weight", _FAMILY)
        sizes[new] = [shape(weights, f"{prefix}.{n}.weight", _FAMILY)[0] for n in range(depth)]
        graphs = r"material_nn\.graphs\.(\d+)\.pooling\.(\d+)"
        pools = r"material_nn\.cry_pool\.(\d+)"
        rules += [
            Rule(rf"{graphs}\.{old}\.fcs\.(\d+)\.(\w+)", _head_layer(new, r"\3.\4")),
            Rule(rf"{graphs}\.{old}\.fc_out\.(\w+)", _head_layer(new, rf"{depth}.\3")),
            Rule(rf"{pools}\.{old}\.fcs\.(\d+)\.(\w+)", rf"encoder.pool.\1.{new}.layers.\2.\3"),
            Rule(rf"{pools}\.{old}\.fc_out\.(\w+)", rf"encoder.pool.\1.{new}.layers.{depth}.\2"),
        ]
    for old, new in ((r"trunk_nn", "encoder.trunk"), (r"output_nns\.0", "head.scalar")):
        for kind, part in (("fcs", "linear"), ("res_fcs", "shortcut")):
            rules.append(Rule(rf"{old}\.{kind}\.(\d+)\.(\w+)", rf"{new}.hidden.\1.{part}.\2"))
    return rules, sizes


def _head_layer(network: str, rest: str) -> str:
    return rf"encoder.interaction.\1.heads.\2.{network}.layers.{rest}"


def _encoder(weights: Mapping[str, Tensor], sizes: Mapping[str, list[int]]) -> dict[str, object]:
    outputs, features = shape(weights, "material_nn.embedding.weight", _FAMILY)
    if features not in _TABLES:
        raise CheckpointError(
            f"this Roost reads {features} element features; known tables have {sorted(_TABLES)}"
        )
    last = shape(weights, "trunk_nn.fc_out.weight", _FAMILY)[0]
    return {
        "_target_": "epitaxy.encoders.roost.Roost",
        "width": outputs + 1,
        "layers": count(weights, r"material_nn\.graphs\.(\d+)\.pooling\.0\.pow", _FAMILY),
        "heads": count(weights, r"material_nn\.cry_pool\.(\d+)\.pow", _FAMILY),
        "gate": tuple(sizes["gate"]),
        "message": tuple(sizes["message"]),
        "trunk": (*_widths(weights, "trunk_nn"), last),
        "features": _TABLES[features],
    }


def _widths(weights: Mapping[str, Tensor], network: str) -> tuple[int, ...]:
    depth = count(weights, rf"{re.escape(network)}\.fcs\.(\d+)\.weight", _FAMILY)
    return tuple(shape(weights, f"{network}.fcs.{n}.weight", _FAMILY)[0] for n in range(depth))
