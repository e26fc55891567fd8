"""ASE databases in LMDB files (``.aselmdb``), the format of fairchem and its data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import stem
from epitaxy.foreign.unpickle import BadValue, read_lmdb

_INNER = ("key_value_pairs", "calculator_parameters")


class AseLmdb(EntrySource):
    """Reads ``.aselmdb`` files: zlib-compressed JSON rows under whole-number keys.

    An entry is a row: structure, ``energy``, ``forces``, ``stress``… in ASE's units and signs,
    the key–value pairs under their names, and ``data``.

    Args:
        fields: Label name to where it stands in a row.
        **entry: How a row is understood; see ``EntrySource``. Templates know ``key``.
    """

    default_id = "{file}-{key}"

    def __init__(self, fields: Mapping[str, FieldRule], **entry: Any) -> None:
        super().__init__(fields, **entry)

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows in the order of their keys.

        Raises:
            SourceError: If the file is no LMDB, or damaged.
        """
        number = 0
        for key, value in read_lmdb(uri, decode="zlib_json"):
            if not key.isdecimal():  # nextid, deleted_ids, metadata
                continue
            where = f"{uri}, row {key}"
            if isinstance(value, BadValue):
                yield BadRecord(where, value.error)
            else:
                context = {"number": number, "row": number + 1, "file": stem(uri), "key": key}
                yield Piece(where, (context, _flat(value)))
            number += 1


def _flat(row: Any) -> Any:
    """Returns a row with its key–value pairs under their own names."""
    if not isinstance(row, Mapping):
        return row
    inner = row.get("key_value_pairs")
    pairs = inner if isinstance(inner, Mapping) else {}
    return {**pairs, **{key: value for key, value in row.items() if key not in _INNER}}
