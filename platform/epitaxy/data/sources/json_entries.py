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
from epitaxy.data.sources.contract import Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.data.sources.json_stream import walk, walk_lines
from epitaxy.data.sources.structures import decode_arrays
from epitaxy.errors import ConfigError

_LINES = (".jsonl", ".ndjson")


class JsonEntries(EntrySource):
    """Reads ``.json`` and ``.jsonl`` files, compressed or not, one entry at a time.

    Args:
        fields: Label name to where it stands in an entry.
        levels: How deep the entries lie: 1 for the items of a list or an object, 2 for the items
            of its items. Templates know the keys on the way as ``key`` (the last) and ``key0``,
            ``key1``, ….
        **entry: How an entry is understood; see ``EntrySource``.
    """

    def __init__(self, fields: Mapping[str, FieldRule], *, levels: int = 1, **entry: Any) -> None:
        super().__init__(fields, **entry)
        if levels < 1:
            raise ConfigError(f"levels must be at least 1, got {levels}")
        self._levels = levels

    def pieces(self, uri: str) -> Iterator[Piece]:
        """Yields the entries of a file; they are numbered from 0.

        Raises:
            SourceError: If the file is no JSON of entries, or is cut off.
        """
        lines = any(suffix in _LINES for suffix in Path(uri).suffixes)
        with open_text(uri) as stream:
            entries = walk_lines(uri, stream) if lines else walk(uri, stream, self._levels)
            for number, (path, entry) in enumerate(entries):
                context = {"number": number, "row": number + 1, "file": stem(uri)}
                context |= {f"key{level}": key for level, key in enumerate(path)}
                context["key"] = path[-1]
                named = [str(key) for key in path if isinstance(key, str)]
                where = f"{uri}, entry {number}" + (f" ({' '.join(named)})" if named else "")
                yield Piece(where, (context, decode_arrays(entry)))
