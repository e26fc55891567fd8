"""Values in nested entries by dotted path, and names made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from epitaxy.errors import RecordError, closest

_SLOT = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
_PLACE = re.compile(r"-?\d{1,9}", re.ASCII)


def lookup(entry: Any, path: str) -> Any:
    """Returns the value at ``path``: a key, or keys with dots between (``outputs.energy``).

    A key that holds dots itself is found too. Numbers are places in a list (``frames.0``, the last
    is ``-1``); ``*`` collects over all of a list (``sites.*.properties.magmom``).

    Raises:
        KeyError: If there is none.
    """
    if isinstance(entry, Mapping) and path in entry:
        return entry[path]
    for split in [match.start() for match in re.finditer(r"\.", path)]:
        head, rest = path[:split], path[split + 1 :]
        try:
            if head == "*" and isinstance(entry, (list, tuple)):
                return [lookup(item, rest) for item in entry]
            return lookup(_child(entry, head), rest)
        except KeyError:
            continue
    if path == "*" and isinstance(entry, (list, tuple)):
        return list(entry)
    return _child(entry, path)


def _child(entry: Any, key: str) -> Any:
    if isinstance(entry, Mapping):
        return entry[key]
    if isinstance(entry, (list, tuple, np.ndarray)) and _PLACE.fullmatch(key):
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


def slots(template: str) -> list[str]:
    """Returns the paths that ``template`` takes values from; see ``fill``."""
    return [match[1] for match in _SLOT.finditer(template)] if "{" in template else [template]


def fill(template: str, what: str, *entries: Mapping[str, Any]) -> str:
    """Returns the text that ``template`` makes of the first entry that has the values.

    ``{jid}-{number}`` takes two values, ``mb-phonons-{row:04d}`` formats one; a template without
    braces is a path itself, ``task_id``.

    Raises:
        RecordError: If a value is absent, empty, no text or number, or cannot be formatted as the
            template says; ``what`` says what it is for.
    """

    def value(path: str, style: str) -> str:
        for entry in entries:
            found = find(entry, path)
            text = "" if found is None else _text(found, style, f"{what} {template!r}: {path!r}")
            if text:
                return text
        known = [key for entry in entries for key in entry if not str(key).startswith("@")]
        if path in known:
            raise RecordError(f"{path!r} is empty, and the {what} is made of it")
        raise RecordError(f"there is no {path!r} for the {what}; {closest(path, known)}"[:400])

    if "{" not in template:
        return value(template, "")
    return _SLOT.sub(lambda match: value(match[1], match[2] or ""), template)


def _text(found: Any, style: str, place: str) -> str:
    """Returns a text or number as text; empty if it is none."""
    if isinstance(found, np.generic):
        found = found.item()
    if not isinstance(found, (str, int, float)):
        raise RecordError(f"{place} is {type(found).__name__}, expected a text or a number")
    if found != found:  # NaN, as pandas writes an empty cell
        return ""
    try:
        text = format(found, style) if style else str(found)
        text.encode()
    except ValueError as error:
        raise RecordError(f"{place} cannot be used: {error}") from error
    return text.strip()


def printable(text: str, longest: int = 200) -> str:
    """Returns ``text`` cut short and with what cannot be written to a file escaped."""
    return text[:longest].encode("utf-8", "backslashreplace").decode()
