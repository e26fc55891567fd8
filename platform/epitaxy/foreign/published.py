"""Published weights under this project's names: what all families of models share.

Takes plain tensors; ``unpickle`` reads the authors' pickled files in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from epitaxy.errors import CheckpointError

Task = Literal["regression", "classification", "none"]


@dataclass(frozen=True)
class Rule:
    r"""Renames one kind of parameter.

    Attributes:
        pattern: Regular expression that matches the whole original name.
        name: New name; ``\1`` … stand for groups.
    """

    pattern: str
    name: str


@dataclass(frozen=True)
class Unused:
    """Parameters that a published file holds although nothing reads them.

    Attributes:
        pattern: Regular expression that matches the whole original name.
        why: For the user.
    """

    pattern: str
    why: str


@dataclass(frozen=True)
class PublishedModel:
    """A published model in this project's terms.

    Attributes:
        family: Which model.
        encoder: Configuration of the encoder (``_target_`` and arguments).
        head: Arguments of ``ScalarHead`` besides the width; empty if the file holds no such head.
        state: State dict with the keys ``encoder.*`` and ``head.<role>.*``.
        mean: Of the training labels; predictions are ``output · std + mean``.
        std: Of the training labels.
        task: What the head is for: ``regression``, ``classification`` (logits of each class), or
            ``none`` without such a head.
        unused: Original names that were left out, and why.
        robust: Whether a second output is the logarithm of the standard deviation of the first.
        objective: Configuration of the self-supervision whose heads the file holds; empty if none.
    """

    family: str
    encoder: dict[str, Any]
    head: dict[str, Any]
    state: dict[str, Tensor]
    mean: float = 0.0
    std: float = 1.0
    task: Task = "none"
    unused: Mapping[str, str] = field(default_factory=dict)
    robust: bool = False
    objective: Mapping[str, Any] = field(default_factory=dict)


def renamed(
    weights: Mapping[str, Tensor], family: str, rules: Sequence[Rule], unused: Sequence[Unused]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors under new names, and the names left out with the reason.

    Batch norms that came without ``num_batches_tracked`` (old PyTorch) get it.

    Raises:
        CheckpointError: If a name is foreign to the family.
    """
    state: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for name, tensor in weights.items():
        reasons = [entry.why for entry in unused if re.fullmatch(entry.pattern, name)]
        if reasons:
            left_out[name] = reasons[0]
        else:
            state[_new_name(name, family, rules)] = tensor
    for name in [name for name in state if name.endswith(".running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        state.setdefault(counter, torch.zeros((), dtype=torch.long))
    return state, left_out


def _new_name(name: str, family: str, rules: Sequence[Rule]) -> str:
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return match.expand(rule.name)
    raise CheckpointError(
        f"{name!r} is no parameter of the published {family}; if the file is of another model, "
        "name its family"
    )


def shape(weights: Mapping[str, Tensor], name: str, family: str) -> tuple[int, ...]:
    """Returns the shape of a tensor that the model needs.

    Raises:
        CheckpointError: If it is missing.
    """
    if name not in weights:
        raise CheckpointError(f"weights of the published {family} need {name!r}, which is missing")
    return tuple(weights[name].shape)


def count(weights: Mapping[str, Tensor], pattern: str, family: str) -> int:
    """Returns how many layers there are; group 1 of ``pattern`` is the number of one.

    Raises:
        CheckpointError: If a number is missing between 0 and the last.
    """
    matches = [re.fullmatch(pattern, name) for name in weights]
    found = sorted({int(match[1]) for match in matches if match})
    if found != list(range(len(found))):
        raise CheckpointError(f"weights of the published {family} have gaps: layers {found}")
    return len(found)


def as_tensors(values: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Returns a state dict of arrays as tensors.

    Raises:
        CheckpointError: If an entry is no array of numbers.
    """
    tensors = {}
    for name, value in values.items():
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{where}: {name!r} is no parameter ({error})") from error
        if not isinstance(name, str) or tensor.dtype == torch.bool:
            raise CheckpointError(f"{where}: {name!r} is no parameter")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{where}: {name!r} holds NaN or infinity; the file is damaged, or its training "
                "diverged: import another one"
            )
        tensors[name.removeprefix("module.")] = tensor
    return tensors


def task_of(outputs: int) -> Task:
    """Returns what a head with so many outputs is for."""
    return "regression" if outputs == 1 else "classification"
