"""Which part of a combined objective owns which head of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from epitaxy.encoders.contract import Encoder
from epitaxy.errors import ConfigError
from epitaxy.heads.model import Model
from epitaxy.objectives.part import Part


class PartHeads(nn.ModuleDict):
    """Heads of a part, by role, whose roles parts before it own: ``head.<part>.<role>``."""


def heads_of_all(parts: Sequence[Part], encoder: Encoder) -> dict[str, nn.Module]:
    """Returns the heads of all parts by role; those of a part whose roles were taken by its name.

    Raises:
        ConfigError: If a part would share a head that differs, or none, or is named like a role.
    """
    heads: dict[str, nn.Module] = {}
    later: dict[str, PartHeads] = {}
    for part in parts:
        own = part.objective.heads(encoder)
        taken = {role: head for role, head in own.items() if role in heads}
        if part.share:
            _check_shared(part.name, taken, heads)
        elif taken:
            later[part.name] = PartHeads(taken)
        heads |= {role: head for role, head in own.items() if role not in taken}
    for name in later.keys() & heads.keys():
        raise ConfigError(f"parts.{name} is named like the role of a head; rename the part")
    return {**heads, **later}


def model_of(part: Part, model: Model, encoder: Encoder) -> Model:
    """Returns the model as one part knows it: ``encoder``, and its heads by their usual roles."""
    heads = {role: head for role, head in model.head.items() if not isinstance(head, PartHeads)}
    if part.name in model.head and isinstance(own := model.head[part.name], PartHeads):
        heads |= dict(own.items())
    known = Model(encoder, heads)
    known.training = known.head.training = model.training
    return known


def _check_shared(
    name: str, wanted: Mapping[str, nn.Module], owned: Mapping[str, nn.Module]
) -> None:
    if not wanted:
        raise ConfigError(
            f"parts.{name}.share=true, but no part before it owns a head of the same role; it can "
            f"share {', '.join(owned) or 'nothing'}"
        )
    for role, head in wanted.items():
        if _shape(head) != _shape(owned[role]):
            raise ConfigError(
                f"parts.{name}.share=true, but its head {role!r} differs from the one of the part "
                "before it in class, size or options; make them alike, or leave share out"
            )


def _shape(head: nn.Module) -> list[Any]:
    """Returns all that distinguishes a head from others but the values of its weights."""
    described: list[Any] = [(name, list(t.shape)) for name, t in head.state_dict().items()]
    for name, module in head.named_modules():
        options = {key: value for key, value in vars(module).items() if _is_option(key, value)}
        described.append((name, type(module), options))
    return described


def _is_option(key: str, value: Any) -> bool:
    plain = isinstance(value, (bool, int, float, str, type(None))) or callable(value)
    return plain and not key.startswith("_")
