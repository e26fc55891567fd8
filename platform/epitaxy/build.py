"""Turns ``{"_target_": "package.module.Name", **arguments}`` into the object it describes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from epitaxy.errors import ConfigError, closest

TRUSTED_PREFIXES = ("epitaxy.encoders.", "epitaxy.heads.", "epitaxy.objectives.")
"""What a card that came from elsewhere may name; anything more needs the user's word."""


def locate(target: str) -> Any:
    """Returns the class or function that ``target`` names.

    Raises:
        ConfigError: If the module or the attribute does not exist.
    """
    module_name, _, attribute = target.rpartition(".")
    if not module_name:
        raise ConfigError(f"_target_ {target!r} must be a dotted path such as package.module.Name")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise ConfigError(f"_target_ {target!r}: no module named {missing!r}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"_target_ {target!r}: {closest(attribute, vars(module))}")
    return getattr(module, attribute)


def build(config: Mapping[str, Any], *, trusted: tuple[str, ...] = (), **injected: Any) -> Any:
    """Returns the object described by ``config``, nested descriptions built first.

    Args:
        config: Mapping with ``_target_`` and the plain arguments of that callable.
        trusted: If given, only targets that start with one of these prefixes are built.
        **injected: Further arguments that no configuration file can express.

    Raises:
        ConfigError: If the target is unknown or untrusted, or an argument does not fit.
    """
    if "_target_" not in config:
        raise ConfigError(f"a component needs a _target_, got the keys {sorted(config)}")
    target = str(config["_target_"])
    if trusted and not target.startswith(trusted):
        raise ConfigError(f"_target_ {target!r} is refused: only {', '.join(trusted)} are trusted")
    arguments = {
        key: _build_nested(value, trusted) for key, value in config.items() if key != "_target_"
    }
    callable_ = locate(target)
    check_arguments(callable_, target, {**arguments, **injected})
    return callable_(**arguments, **injected)


def check_arguments(callable_: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that ``callable_`` does not take, naming the closest one it does."""
    parameters = inspect.signature(callable_).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise ConfigError(f"{name} takes no argument {key!r}; {closest(key, parameters)}")
    missing = [
        p.name
        for p in parameters.values()
        if p.default is inspect.Parameter.empty
        and p.kind is not inspect.Parameter.VAR_POSITIONAL
        and p.name not in arguments
    ]
    if missing:
        raise ConfigError(f"{name} needs the argument {missing[0]!r}, which is not set")


def _build_nested(value: Any, trusted: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, trusted=trusted)
        return {key: _build_nested(item, trusted) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_build_nested(item, trusted) for item in value)
    return value
