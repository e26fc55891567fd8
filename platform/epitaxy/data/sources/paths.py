"""Values in nested entries by dotted path, and names made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from epitaxy.errors import ConfigError, RecordError, closest

_SLOT = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def lookup(entry: Any, path: str) -> Any:
    """Returns the value at ``path``: a key, or keys with dots between (``outputs.energy``).

    A key that holds dots itself is found too. Numbers are places in a list (``sites.0``).

    Raises:
        KeyError: If there is none.
    """
    if isinstance(entry, Mapping) and path in entry:
        return entry[path]
    for split in [match.start() for match in re.finditer(r"\.", path)]:
        head, rest = path[:split], path[split + 1 :]
        try:
            inner = _child(entry, head)
        except KeyError:
            continue
        try:
            return lookup(inner, rest)
        except KeyError:
            continue
    return _child(entry, path)


def _child(entry: Any, key: str) -> Any:
    if isinstance(entry, Mapping):
        return entry[key]
    if isinstance(entry, (list, tuple)) and key.lstrip("-").isdecimal():
        try:
            return entry[int(key)]
        except IndexError:
            pass
    raise KeyError(key)


def find(entry: Any, path: str) -> Any:
    """Returns the value at ``path``, or ``None``."""
    try:
        return lookup(entry, path)
    except KeyError:
        return None


def first_present(entry: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Returns the value of the first of ``keys`` that is there and not ``None``, or ``None``."""
    for key in keys:
        if entry.get(key) is not None:
            return entry[key]
    return None


def fill(template: str, what: str, *entries: Mapping[str, Any]) -> str:
    """Returns the text that ``template`` makes of the first entry that has the values.

    ``{jid}-{number}`` takes two values, ``mb-phonons-{row:04d}`` formats one; a template without
    braces is a path itself, ``task_id``.

    Raises:
        RecordError: If a value is absent or empty; ``what`` says what it is for.
        ConfigError: If a value cannot be formatted as the template says.
    """

    def value(path: str, style: str) -> str:
        for entry in entries:
            found = find(entry, path)
            if found is None:
                continue
            try:
                text = format(found, style) if style else str(found)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{what} {template!r}: {path} is {found!r}: {error}") from error
            if text.strip():
                return text.strip()
        known = [key for entry in entries for key in entry if not str(key).startswith("@")]
        raise RecordError(f"there is no {path!r} for the {what}; {closest(path, known)}"[:400])

    if "{" not in template:
        return value(template, "")
    return _SLOT.sub(lambda match: value(match[1], match[2] or ""), template)
