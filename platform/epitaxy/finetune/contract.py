"""What a fine-tune strategy promises: it changes a built model and says what it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from epitaxy.errors import CheckpointError, ConfigError
from epitaxy.heads.model import Model

FrozenNorm = Literal["eval", "batch"]


@dataclass(frozen=True)
class Report:
    """What a strategy did to a model; every list holds state-dict names.

    Attributes:
        loaded: Taken from the source.
        reinitialised: Weights of the model that kept their fresh initial values.
        unused: Weights of the source that found no place, with the reason.
        frozen: Parameters that will not change; they enter neither optimiser nor weight decay.
        multipliers: Every trainable parameter with its factor on the learning rate.
        eval_modules: Modules that stay in eval mode during training (norms of frozen parts).
    """

    multipliers: Mapping[str, float]
    loaded: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    eval_modules: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready data."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@runtime_checkable
class Strategy(Protocol):
    """Applied once to a freshly built model, before its optimiser exists.

    Attributes:
        needs_source: Whether it needs the weights of another model.
    """

    needs_source: bool

    def apply(self, model: Model, source: Mapping[str, Tensor] | None) -> Report:
        """Changes ``model`` in place, given the source's state dict.

        Raises:
            ConfigError: If a source is missing, or given and of no use.
            CheckpointError: If nothing of the source fits.
        """
        ...


@torch.no_grad()
def load_fitting(
    model: Model, source: Mapping[str, Tensor], *, skip: str | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Copies every tensor of ``source`` whose name and shape the model has.

    Args:
        model: Is changed in place.
        source: State dict to copy from.
        skip: Prefix of names that are left as they are.

    Returns:
        Names that were loaded, and the source's other names with the reason.

    Raises:
        CheckpointError: If nothing of the encoder fits.
    """
    own = model.state_dict()
    loaded, unused = [], {}
    for name, tensor in source.items():
        if skip is not None and name.startswith(skip):
            unused[name] = "left out on request"
        elif name not in own:
            unused[name] = "the model has no such weight"
        elif own[name].shape != tensor.shape:
            unused[name] = f"shape {list(tensor.shape)}, the model has {list(own[name].shape)}"
        else:
            own[name].copy_(tensor)
            loaded.append(name)
    if not any(name.startswith("encoder.") for name in loaded):
        theirs = sum(name.startswith("encoder.") for name in source)
        raise CheckpointError(
            f"none of the {theirs} encoder weights of the source fits this model: they belong to "
            "another encoder; choose the encoder the source was trained with"
        )
    return tuple(loaded), unused


def freeze(model: Model, names: Iterable[str], frozen_norm: FrozenNorm) -> tuple[str, ...]:
    """Freezes the parameters ``names``; returns the modules that must stay in eval mode.

    A frozen norm still moves its running statistics in training mode. With ``eval`` every norm
    that has statistics and no trainable parameter left keeps them as they are; ``batch`` lets
    them move, as the published fine-tuning codes do.

    Raises:
        ConfigError: If ``frozen_norm`` is unknown.
    """
    if frozen_norm not in ("eval", "batch"):
        raise ConfigError(f"frozen_norm must be 'eval' or 'batch', got {frozen_norm!r}")
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
    if frozen_norm == "batch":
        return ()
    return tuple(name for name, module in model.named_modules() if _is_frozen_norm(module))


def fresh(model: Model, loaded: Iterable[str]) -> tuple[str, ...]:
    """Returns the model's weights that are not among ``loaded``."""
    known = set(loaded)
    return tuple(name for name in model.state_dict() if name not in known)


def require_source(source: Mapping[str, Tensor] | None, strategy: str) -> Mapping[str, Tensor]:
    """Returns ``source``.

    Raises:
        ConfigError: If there is none.
    """
    if source is None:
        raise ConfigError(
            f"finetune={strategy} needs a model to start from: give from=NAME@ALIAS or a folder, "
            "or choose finetune=scratch"
        )
    return source


def _is_frozen_norm(module: nn.Module) -> bool:
    has_statistics = getattr(module, "running_mean", None) is not None
    return has_statistics and not any(p.requires_grad for p in module.parameters())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
