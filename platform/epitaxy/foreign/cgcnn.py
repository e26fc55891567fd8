"""Published CGCNN weights (github.com/txie-93/cgcnn) under this project's names.

Takes plain tensors; whoever reads the authors' pickled checkpoints does so elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from epitaxy.errors import CheckpointError

ATOM_FEATURES = 92
_PARTS = {"fc_full": "linear", "bn1": "edge_norm", "bn2": "node_norm"}
_INPUT = {"radius": 8.0, "max_neighbors": 12, "dmin": 0.0}
"""What the authors' code builds graphs with unless told otherwise (Å)."""


@dataclass(frozen=True)
class PublishedCGCNN:
    """A published model in this project's terms.

    Attributes:
        encoder: Configuration of the encoder (``_target_`` and arguments).
        head: Arguments of ``ScalarHead`` besides the width.
        state: State dict with the keys ``encoder.*`` and ``head.scalar.*``.
        mean: Of the training labels; predictions are ``output · std + mean``.
        std: Of the training labels.
    """

    encoder: dict[str, Any]
    head: dict[str, Any]
    state: dict[str, Tensor]
    mean: float
    std: float


def import_cgcnn(
    weights: Mapping[str, Tensor],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    graph: Mapping[str, Any] | None = None,
) -> PublishedCGCNN:
    """Returns the model whose parameters are ``weights``; their shapes tell its size.

    Args:
        weights: Parameters and batch-norm statistics under the authors' names.
        mean: Of the authors' label normaliser.
        std: Of the authors' label normaliser.
        graph: ``radius`` (Å), ``max_neighbors`` and ``dmin`` (Å, first Gaussian) if they differ
            from 8, 12 and 0.

    Raises:
        CheckpointError: If a name is foreign to CGCNN or a shape does not fit the others.
    """
    state = {new_name(name): tensor for name, tensor in weights.items()}
    for name in [name for name in state if name.endswith(".running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        state.setdefault(counter, torch.zeros((), dtype=torch.long))
    width = _shape(weights, "embedding.weight")[0]
    if _shape(weights, "embedding.weight")[1] != ATOM_FEATURES:
        raise CheckpointError(
            f"embedding.weight has shape {tuple(weights['embedding.weight'].shape)}: expected "
            f"{ATOM_FEATURES} element features, those of the authors' atom_init.json"
        )
    settings = {**_INPUT, **(graph or {})}
    encoder = {
        "_target_": "epitaxy.encoders.cgcnn.CGCNN",
        "width": width,
        "layers": _count(weights, r"convs\.(\d+)\.fc_full\.weight"),
        "rule": "nearest",
        "cutoff": float(settings["radius"]),
        "max_neighbors": int(settings["max_neighbors"]),
        "padding": "index0",
        "num_basis": _shape(weights, "convs.0.fc_full.weight")[1] - 2 * width,
        "basis_start": float(settings["dmin"]),
        "basis_width": 1.0,
        "envelope": "none",
        "message_scale": 1.0,
        "norm": "batch",
        "core_activation": "softplus",
        "outer_activation": "softplus",
    }
    hidden = _shape(weights, "conv_to_fc.weight")[0]
    head = {
        "hidden": (hidden,) * (1 + _count(weights, r"fcs\.(\d+)\.weight")),
        "activation": "softplus",
        "activate_input": True,
        "order": "early",
        "pool": "mean",
        "outputs": _shape(weights, "fc_out.weight")[0],
    }
    return PublishedCGCNN(encoder, head, state, mean, std)


def new_name(name: str) -> str:
    """Returns this project's name of a published parameter or statistic.

    Raises:
        CheckpointError: If CGCNN has no such parameter.
    """
    first, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    if first == "embedding":
        return f"encoder.{name}"
    if first == "convs":
        part, _, leaf = inner.partition(".")
        if index.isdigit() and part in _PARTS:
            return f"encoder.interaction.{index}.{_PARTS[part]}.{leaf}"
    if first == "conv_to_fc":
        return f"head.scalar.hidden.0.{rest}"
    if first == "fcs" and index.isdigit():
        return f"head.scalar.hidden.{int(index) + 1}.{inner}"
    if first == "fc_out":
        return f"head.scalar.out.{rest}"
    raise CheckpointError(
        f"{name!r} is no parameter of the published CGCNN (expected embedding, convs, conv_to_fc, "
        "fcs or fc_out)"
    )


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name not in weights or weights[name].ndim != 2:
        raise CheckpointError(f"published CGCNN weights need a matrix {name!r}")
    rows, columns = weights[name].shape
    return rows, columns


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    found = sorted(
        int(match[1]) for match in (re.fullmatch(pattern, key) for key in weights) if match
    )
    if found != list(range(len(found))):
        raise CheckpointError(f"published CGCNN weights have gaps: layers {found} of {pattern}")
    return len(found)
