"""What weights do not tell of a model, under the names of training codes and of our own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from epitaxy.errors import ConfigError, closest
from epitaxy.foreign.family import FAMILIES, GRAPH_SETTINGS

_LENGTHS = ("radius", "dmin", "step")
_COUNTS = ("max_neighbors", "max_images", "heads")
_SWITCHES = ("unit_length", "robust")
_WORDS = ("order", "pool", "repeats", "attention")
_TASKS = ("regression", "classification")
_FOR_ALL = ("mean", "std", "task")
OPTIONS = (*_LENGTHS, *_COUNTS, *_SWITCHES, *_WORDS, *_FOR_ALL)

_ALIASES = {"max_nbr": "max_neighbors", "max_num_nbr": "max_neighbors"}
_IN_FILES = frozenset({*_LENGTHS, *_ALIASES, "max_neighbors", "robust", "task"})
"""Names that mean the same in every training code; others, such as ``pool``, do not."""


def settings_in(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what arguments or the configuration of a training code say of the model."""
    found = {}
    for given, value in _leaves(arguments):
        name = _ALIASES.get(given, given)
        if given in _IN_FILES and _CHECKS[name][0](value):
            found[name] = value
    return found


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a user set, under our names.

    Raises:
        ConfigError: If one is unknown or has an impossible value.
    """
    found = {}
    for given, value in options.items():
        name = _ALIASES.get(given, given)
        if name not in OPTIONS:
            raise ConfigError(f"no option {given!r}; {closest(given, OPTIONS)}")
        if value is None:
            continue
        fits, expected = _CHECKS[name]
        if not fits(value):
            raise ConfigError(f"options.{given} is {value!r}, expected {expected}")
        found[name] = value
    return found


def importer_arguments(
    family: str, settings: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the keyword arguments of a family's importer.

    Args:
        family: One of ``FAMILIES``.
        settings: Found in files; what the importer does not take is left out.
        chosen: Set by the user; overrides the others.

    Raises:
        ConfigError: If the user set something that the family has no use for.
    """
    parameters = set(inspect.signature(FAMILIES[family]).parameters)
    own = parameters - {"weights", "graph", *_FOR_ALL}
    of_graph = set(GRAPH_SETTINGS.get(family, ()))
    useless = sorted(set(chosen) - own - of_graph - set(_FOR_ALL))
    if useless:
        raise ConfigError(
            f"options.{useless[0]} has no meaning for the family {family}, which takes "
            f"{', '.join(sorted(own | of_graph | set(_FOR_ALL)))}"
        )
    merged = {**settings, **chosen}
    arguments = {name: merged[name] for name in sorted(own & set(merged))}
    graph = {name: merged[name] for name in sorted(of_graph & set(merged))}
    return {**arguments, "graph": graph} if graph else arguments


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields name and value of everything in nested dicts that is no dict."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(name), value


def _is_number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def _is_length(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


Check = tuple[Callable[[Any], bool], str]
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_LENGTHS, (_is_length, "a length in Å")),
    **dict.fromkeys(_COUNTS, (_is_count, "a whole number above 0")),
    **dict.fromkeys(_SWITCHES, (lambda value: isinstance(value, bool), "true or false")),
    **dict.fromkeys(_WORDS, (lambda value: isinstance(value, str), "a word")),
    "mean": (_is_number, "a number"),
    "std": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "task": (lambda value: value in _TASKS, " or ".join(_TASKS)),
}
