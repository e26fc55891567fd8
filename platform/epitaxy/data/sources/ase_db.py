"""ASE databases: SQLite and JSON files that ``ase.db`` reads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import stem, unpacked
from epitaxy.errors import RecordError, SourceError

_PROPERTIES = (
    "energy",
    "forces",
    "stress",
    "free_energy",
    "magmom",
    "magmoms",
    "charges",
    "dipole",
)


class AseDb(EntrySource):
    """Reads ``.db`` (SQLite) and ``.json`` databases, also compressed.

    An entry has the row's structure, its results (``energy``, ``forces``, ``stress``…, ASE's
    units and signs), its key–value pairs under their names, and ``data``.

    Args:
        fields: Label name to where it stands in a row.
        **entry: How a row is understood; see ``EntrySource``. Templates know ``id``, the row's
            number in the database.
    """

    default_id = "{file}-{id}"

    def __init__(self, fields: Mapping[str, FieldRule], **entry: Any) -> None:
        super().__init__(fields, **entry)

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of a database in the order of their numbers.

        Raises:
            SourceError: If it is no database, or damaged.
        """
        import ase.db

        with unpacked(uri) as path:
            kind = "json" if path.endswith(".json") else "db"
            try:
                rows = ase.db.connect(path, type=kind).select(sort="id")
                for number, row in enumerate(rows):
                    context = {"number": number, "row": number + 1, "file": stem(uri)}
                    where = f"{uri}, row {row.id}"
                    try:
                        yield Piece(where, (context, row_entry(row)))
                    except (ValueError, TypeError, KeyError, AttributeError) as error:
                        yield BadRecord(where, RecordError(f"the row is damaged: {error}"))
            except (sqlite3.Error, json.JSONDecodeError, KeyError, ValueError) as error:
                raise SourceError(f"{uri} is no ASE database, or damaged: {error}") from error


def row_entry(row: Any) -> dict[str, Any]:
    """Returns a row of a database as an entry."""
    entry = dict(row.key_value_pairs)
    entry |= {"id": row.id, "unique_id": row.unique_id, "data": dict(row.data)}
    entry |= {"numbers": row.numbers, "positions": row.positions, "cell": row.cell, "pbc": row.pbc}
    return entry | {name: row[name] for name in _PROPERTIES if row.get(name) is not None}
