"""Pickles and LMDB files of other projects, read by a process of their own into plain trees.

A pickle is a program: loading it may run anything. So a child process loads it with an allow-list,
imports nothing that the file names (``allowed.py`` of ``epitaxy.foreign.child``), and sends dicts,
lists, numbers, text and numpy arrays through a pipe (``wire.py``). Objects of foreign classes come
as ``{"@type": "pymatgen.core.structure.Structure", ...state}``, whatever version wrote them and
whether or not their package is installed; ``encoding.py`` lists all forms. A crash, a hang or a
lack of memory of the child is an error that names the file, and nothing worse.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epitaxy.errors import ConfigError, RecordError, SourceError
from epitaxy.foreign.packages import PACKAGES
from epitaxy.foreign.process import Child, Limits
from epitaxy.foreign.wire import WireError, decode

__all__ = ["BadValue", "Limits", "read_lmdb", "read_pickles"]

_NAME = re.compile(r"[^\W\d]\w*(\.\w+)*(\.\*)?")
_DECODINGS = ("pickle", "zlib_json", "auto")


@dataclass(frozen=True)
class BadValue:
    """A record that could not be read; the ones after it can.

    Attributes:
        name: Of the record.
        error: Why; the message names the file, the record and what to do.
        refused: Type that is not allowed, if that is why.
    """

    name: str
    error: SourceError | RecordError
    refused: str = ""


def read_pickles(
    path: str,
    *,
    allow: Sequence[str] = (),
    select: str = "",
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[tuple[str, Any]]:
    """Yields (name, tree) of the pickles in a file, named ``0``, ``1``, … in order.

    Reads plain and gzip, bzip2 or xz files, and those of ``torch.save``. Objects that a pickle
    shares are shared in its tree too: treat trees as read-only. A record that holds a type which
    is not allowed, or is damaged, comes as ``BadValue``.

    Args:
        path: Of the file.
        allow: Further classes that may occur, as dotted names or ``package.*``; they are not
            imported either, and come as dicts with ``@type``.
        select: ``items`` yields the items of a dict, or of a list, one by one under their keys or
            positions, so that only one at a time is in memory here; the items of a second pickle
            have names such as ``1/key``.
        limits: Of the child process.

    Raises:
        SourceError: If the file as a whole cannot be read (on).
        ConfigError: If ``select`` or ``allow`` is of another form.
    """
    if select not in ("", "items"):
        raise ConfigError(f"select is {select!r}, expected '' or 'items'")
    if Path(path).is_dir():
        raise SourceError(f"{path} is a folder, expected a file of pickles")
    return _records(path, {"mode": "pickles", "select": select, "allow": _names(allow)}, limits)


def read_lmdb(
    path: str,
    *,
    allow: Sequence[str] = (),
    decode: Literal["pickle", "zlib_json", "auto"] = "auto",
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Iterator[tuple[str, Any]]:
    """Yields (key, tree) of an LMDB file, numeric keys first and by value, ``a9`` before ``a10``.

    Every key is yielded, bookkeeping such as ``length`` or ``nextid`` too. Keys are text; binary
    ones of 4 or 8 bytes are whole numbers. A value that cannot be read comes as ``BadValue``.

    Args:
        path: Of the file, plain or compressed, or of the folder with its ``data.mdb``.
        allow: Further classes that may occur in pickles, as for ``read_pickles``.
        decode: ``pickle`` (plain, zlib or gzip), ``zlib_json`` as fairchem and ASE write it, or
            ``auto`` to tell by each value. Arrays, dates and complex numbers in ASE's JSON encoding
            become arrays, ISO 8601 text and ``{"@type": "builtins.complex"}``.
        limits: Of the child process.

    Raises:
        SourceError: If the file as a whole cannot be read (on).
        ConfigError: If ``decode`` or ``allow`` is of another form.
    """
    if decode not in _DECODINGS:
        raise ConfigError(f"decode is {decode!r}, expected one of {', '.join(_DECODINGS)}")
    folder = Path(path)
    if folder.is_dir() and not (folder / "data.mdb").is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise SourceError(f"{path} is a folder without the data.mdb of an LMDB, it holds {found}")
    return _records(path, {"mode": "lmdb", "decode": decode, "allow": _names(allow)}, limits)


def _names(allow: Sequence[str]) -> list[str]:
    names = [allow] if isinstance(allow, str) else list(allow)
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"allow names {name!r}, expected a class such as 'pkg.MyClass' or 'pkg.*'"
            )
    return names


def _records(path: str, request: dict[str, Any], limits: Limits) -> Iterator[tuple[str, Any]]:
    if not os.path.exists(path):
        raise SourceError(f"there is no file {path!r}")
    return _read(path, request, limits)


def _read(path: str, request: dict[str, Any], limits: Limits) -> Iterator[tuple[str, Any]]:
    """Yields what the child sends; ends the child however the iteration ends."""
    with Child(path, request, limits) as child:
        for header, blob in child.messages():
            kind, name = header.get("kind"), str(header.get("name"))
            if kind == "item":
                yield name, _tree(path, header, blob)
            elif kind == "refused":
                refused = str(header.get("why"))
                yield name, BadValue(name, _refusal(path, name, refused), refused)
            else:
                why = f"{path}, record {name!r} cannot be read: {header.get('why')}"
                yield name, BadValue(name, SourceError(why))


def _tree(path: str, header: dict[str, Any], blob: bytearray) -> Any:
    try:
        return decode(header.get("tree"), blob)
    except WireError as error:
        raise SourceError(f"the reader of {path} sent nonsense: {error}") from error


def _refusal(path: str, name: str, refused: str) -> SourceError:
    remedy = (
        f"If it is data of your own, pass allow=[{refused!r}]: it is then read without importing "
        "it, as a dict with '@type'"
    )
    if refused.startswith("pandas."):
        remedy = "Save the table as CSV or JSON and read that"
    return SourceError(
        f"{path}, record {name!r} holds an object of type {refused}, which is not allowed in a "
        "pickle; allowed are plain Python values, numpy arrays, torch tensors and classes of "
        f"{', '.join(PACKAGES)}. Nothing was executed. {remedy}"
    )
