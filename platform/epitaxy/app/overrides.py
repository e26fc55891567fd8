"""Command-line overrides ``key=value``: read them, and say what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from epitaxy.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_][\w.]*")
_PLAIN = re.compile(r"[A-Za-z_/.][\w./@:-]*")
_WORDS_WITH_A_VALUE = {"true", "false", "null", "nan", "inf"}


def parse(text: str) -> tuple[str, Any]:
    """Returns key and value of ``key=value``.

    Values follow Hydra's grammar (numbers, ``true``, ``null``, ``[lists]``, ``{key: value}``,
    quotes); whatever is none of these, such as ``~/data`` or ``a=b``, is taken as text.

    Raises:
        ConfigError: If it has another form.
    """
    key, equals, value = text.partition("=")
    if key == "+experiment":  # how Hydra's own programs write it
        key = "experiment"
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(
            f"argument {text!r} is not of the form key=value, such as loop.epochs=10 "
            "(no leading '+', '~' or '--')"
        )
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
        several = override.is_sweep_override()
        parsed = None if several else override.value()
    except HydraException:
        return key, value
    if several:
        raise ConfigError(
            f"{key} got several values: write one, a list {key}=[…], or quotes {key}='…'; "
            "`epitaxy sweep` runs over several"
        )
    return key, _plain(parsed)


def render(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns Python values as overrides, ``{"run": {"name": "a"}}`` as ``run.name=a``."""
    overrides = []
    for name, value in options.items():
        key = prefix + name.rstrip("_")  # from_ stands for the reserved word
        if isinstance(value, Mapping):
            overrides += render(value, key + ".")
        else:
            overrides.append(f"{key}={_render_value(value)}")
    return overrides


def _render_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_render_value(item) for item in value)}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_WITH_A_VALUE:
        return text
    return "'" + text.replace("'", "\\'") + "'"


def _plain(value: Any) -> Any:
    """Returns Hydra's value as plain Python (its quoted strings are a class of their own)."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def suggest(key: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown dotted ``key``: the closest option, or its neighbours.

    ``epochs`` finds ``loop.epochs``; ``loop.epoch`` does too.
    """
    paths = sorted(set(known))
    near = get_close_matches(key, paths, n=1, cutoff=0.75)
    if not near:
        leaves = {path.rpartition(".")[2]: path for path in reversed(paths)}
        match = get_close_matches(key.rpartition(".")[2], leaves, n=1, cutoff=0.75)
        near = [leaves[match[0]]] if match else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    parent = key.rpartition(".")[0]
    while parent and parent not in paths:
        parent = parent.rpartition(".")[0]
    prefix = parent + "." if parent else ""
    siblings = sorted(
        {path.removeprefix(prefix).split(".")[0] for path in paths if path.startswith(prefix)}
    )
    where = f"options of {parent}" if parent else "options"
    return f"{hint}Known {where}: {', '.join(siblings)}"
