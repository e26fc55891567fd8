"""Checks the arguments of encoders, objectives and strategies before anything starts."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from epitaxy.build import check_arguments, locate
from epitaxy.errors import ConfigError, closest

_PLAIN = (int, float, str, bool, type(None))


def check_components(config: Any, path: str = "") -> None:
    """Refuses arguments that a component's callable does not take or that are of a wrong type.

    Args:
        config: Composed configuration; every mapping with a ``_target_``, however deep, is checked.
        path: Where it stands, for messages.

    Raises:
        ConfigError: Naming the argument and the closest one that exists, or the type it needs.
    """
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_component(config, path)
        for key, value in config.items():
            check_components(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, (list, tuple)):
        for index, item in enumerate(config):
            check_components(item, f"{path}[{index}]")


def _check_component(config: Mapping[str, Any], path: str) -> None:
    target = str(config["_target_"])
    callable_ = locate(target)
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    check_arguments(callable_, f"{path} ({target})", arguments)
    hints = argument_types(callable_)
    for name, value in arguments.items():
        _check_type(hints.get(name), value, f"{path}.{name}")


def argument_types(callable_: Any) -> dict[str, Any]:
    """Returns the annotated type of each argument, as far as it can be told."""
    try:
        return typing.get_type_hints(getattr(callable_, "__dict__", {}).get("__init__", callable_))
    except NameError:  # a name that only type checkers import
        return {}


def takes_mapping(hint: Any) -> bool:
    """Returns whether a type is, or may be, a mapping whose keys are the user's own."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    return any((typing.get_origin(member) or member) is Mapping for member in members)


def _check_type(hint: Any, value: Any, path: str) -> None:
    """Checks hints made of plain types and literals; others are the component's own business."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    choices: list[Any] = []
    kinds: list[Any] = []
    for member in members if origin in (typing.Union, types.UnionType) else [hint]:
        if typing.get_origin(member) is typing.Literal:
            choices += typing.get_args(member)
        elif member in _PLAIN:
            kinds.append(member)
        else:
            return
    if value in choices or any(_fits(kind, value) for kind in kinds):
        return
    if choices and isinstance(value, str):
        raise ConfigError(f"{path} is {value!r}; {closest(value, choices)}")
    names = [kind.__name__ for kind in kinds if kind is not type(None)]
    wanted = " or ".join([*names, *map(repr, choices)])
    raise ConfigError(f"{path} must be of type {wanted}, got {value!r}")


def _fits(kind: type, value: Any) -> bool:
    # bool is an int to Python, but width=true is a slip.
    return type(value) is kind or (kind is float and type(value) is int)
