"""JSON files of entries: JARVIS, ALIGNN, ALIGNN-FF, mlearn, MAML, MPtrj and their relatives.

A list of entries, an object of them by id, or an object of objects (MPtrj: material → frame), with
the structure as a dictionary of pymatgen, JARVIS or ASE, as text or as bare arrays. Files are read
entry by entry, so their size does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.data.sources.json_stream import walk, walk_lines
from epitaxy.data.sources.paths import printable
from epitaxy.errors import ConfigError, RecordError

_LINES = (".jsonl", ".ndjson")


class JsonEntries(EntrySource):
    """Reads ``.json`` and ``.jsonl`` files, compressed or not, one entry at a time.

    Args:
        fields: Label name to where it stands in an entry.
        levels: How deep the entries lie: 1 for the items of a list or an object, 2 for the items
            of its items, 0 if the file is one entry. Templates know the keys on the way as ``key``
            (the last) and ``key0``, ``key1``, ….
        under: Dotted path of the container, if it stands beside other things: ``data``.
        lines: Whether there is one entry per line; ``.jsonl`` and ``.ndjson`` files have it so.
        **entry: How an entry is understood; see ``EntrySource``.
    """

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        *,
        levels: int = 1,
        under: str = "",
        lines: bool = False,
        **entry: Any,
    ) -> None:
        super().__init__(fields, **entry)
        if levels < 0:
            raise ConfigError(f"levels must be at least 0, got {levels}")
        if lines and under:
            raise ConfigError("a file with one entry per line has no container to look under")
        self._levels, self._lines = levels, lines
        self._under = tuple(under.split(".")) if under else ()

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the entries of a file; they are numbered from 0.

        Raises:
            SourceError: If the file is no JSON of entries, or is cut off.
        """
        lines = self._lines or any(suffix in _LINES for suffix in Path(uri).suffixes)
        with open_text(uri) as stream:
            entries = (
                walk_lines(uri, stream) if lines else walk(uri, stream, self._levels, self._under)
            )
            for number, (path, entry) in enumerate(entries):
                named = printable(" ".join(key for key in path if isinstance(key, str)))
                where = f"{uri}, entry {number}" + (f" ({named})" if named else "")
                if isinstance(entry, RecordError):
                    yield BadRecord(where, entry)
                    continue
                context = {"number": number, "row": number + 1, "file": stem(uri)}
                context |= {f"key{level}": key for level, key in enumerate(path)}
                if path:
                    context["key"] = path[-1]
                yield Piece(where, (context, entry))
