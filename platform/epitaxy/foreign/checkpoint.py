"""Files with the weights of other projects' models, as plain tensors and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from epitaxy.errors import CheckpointError
from epitaxy.foreign.published import as_tensors
from epitaxy.foreign.unpickle import BadValue, read_pickles

STATE_ENTRIES = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Under which names training codes store a state dict; a file may also be one itself."""
_ARGUMENT_ENTRIES = ("args", "model_params")
_ALLOWED = ("argparse.Namespace",)


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What a checkpoint holds of a model; the optimiser's state and the like are left out.

    Attributes:
        weights: Parameters and buffers under the authors' names, without ``module.``.
        normalizer: Mean and standard deviation that the authors' code standardised labels with.
        arguments: Of the authors' training script.
    """

    weights: Mapping[str, Tensor]
    normalizer: tuple[float, float] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str) -> ForeignCheckpoint:
    """Returns the contents of a file of ``torch.save`` or of safetensors; nothing is executed.

    Raises:
        SourceError: If there is no such file or it is damaged.
        CheckpointError: If it holds no state dict, or objects that only foreign code can read.
    """
    if path.endswith(".safetensors"):
        try:
            return ForeignCheckpoint(as_tensors(load_file(path), path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    tree = _first(path)
    arguments: dict[str, Any] = {}
    for name in _ARGUMENT_ENTRIES:
        if isinstance(tree.get(name), Mapping):
            arguments.update(tree[name])
    return ForeignCheckpoint(
        as_tensors(_state(tree, path), path), _normalizer(tree, path), arguments
    )


def _first(path: str) -> Mapping[str, Any]:
    """Returns the dict that the file is."""
    for _, tree in read_pickles(path, allow=_ALLOWED):
        if isinstance(tree, BadValue) and tree.refused:
            raise CheckpointError(
                f"{path} holds an object of class {tree.refused}, which can be read only by "
                "running that code; nothing was executed. Save the weights alone, with the "
                "original code: torch.save(model.state_dict(), 'weights.pth'), and import that "
                "file"
            )
        if isinstance(tree, BadValue):
            raise tree.error
        if isinstance(tree, Mapping):
            return tree
        raise CheckpointError(
            f"{path} holds a {type(tree).__name__}, expected the dict of a checkpoint"
        )
    raise CheckpointError(f"{path} is empty, expected the dict of a checkpoint")


def _state(tree: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for name in STATE_ENTRIES:
        if isinstance(tree.get(name), Mapping):
            state: Mapping[str, Any] = tree[name]
            return state
    if tree and all(isinstance(value, np.ndarray) for value in tree.values()):
        return tree
    raise CheckpointError(
        f"{path} holds no weights: expected a state dict, or one under "
        f"{', '.join(STATE_ENTRIES)}; found the entries {', '.join(map(str, tree)) or 'none'}"
    )


def _normalizer(tree: Mapping[str, Any], path: str) -> tuple[float, float] | None:
    """Returns the numbers of ``normalizer``, or of the one label of ``normalizer_dict``."""
    found = tree.get("normalizer")
    if found is None and isinstance(tree.get("normalizer_dict"), Mapping):
        several = [value for value in tree["normalizer_dict"].values() if value is not None]
        found = several[0] if len(several) == 1 else None
    if not isinstance(found, Mapping):
        return None
    mean, std = (_one_number(found.get(name), f"{path}: normalizer.{name}") for name in _MOMENTS)
    return mean, std


_MOMENTS = ("mean", "std")


def _one_number(value: Any, where: str) -> float:
    """Returns a number that may come as an array with one element."""
    if value is None:
        raise CheckpointError(f"{where} is missing")
    try:
        number = float(np.asarray(value, dtype=np.float64).reshape(()))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where} is no single number") from error
    if not math.isfinite(number):
        raise CheckpointError(f"{where} is {number}, expected a finite number")
    return number
