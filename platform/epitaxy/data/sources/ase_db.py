"""ASE databases: SQLite and JSON files of ``ase.db``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_text, stem, unpacked
from epitaxy.data.sources.json_stream import walk
from epitaxy.errors import RecordError, SourceError

_RESULTS = (
    "energy", "forces", "stress", "free_energy", "magmom", "magmoms", "charges", "dipole",
    "initial_magmoms", "initial_charges",
)  # fmt: skip
_NO_ROWS = ("ids", "nextid")


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
        """Yields the rows of a database in the order of their numbers (JSON: of the file).

        Raises:
            SourceError: If it is no database, or damaged.
        """
        text = ".json" in Path(uri).suffixes
        for number, (identity, entry) in enumerate(_json_rows(uri) if text else _rows(uri)):
            where = f"{uri}, row {identity}"
            if isinstance(entry, RecordError):
                yield BadRecord(where, entry)
            else:
                context = {"number": number, "row": number + 1, "file": stem(uri)}
                yield Piece(where, (context, entry))


def _json_rows(uri: str) -> Iterator[tuple[Any, Any]]:
    with open_text(uri) as stream:
        for path, row in walk(uri, stream):
            if path[-1] in _NO_ROWS:
                continue
            if not isinstance(row, Mapping) or "numbers" not in row:
                yield path[-1], RecordError("this is no row of an ASE database: it has no numbers")
                continue
            pairs = row.get("key_value_pairs")
            rest = {key: value for key, value in row.items() if key != "key_value_pairs"}
            named = dict(pairs) if isinstance(pairs, Mapping) else {}
            yield path[-1], {**named, **rest, "id": path[-1]}


def _rows(uri: str) -> Iterator[tuple[Any, Any]]:
    import ase.db

    with unpacked(uri) as path:
        identities = _identities(uri, path)
        with ase.db.connect(path, type="db") as database:
            for identity in identities:
                try:
                    yield identity, _row_entry(database.get(id=identity))
                except Exception as error:  # a damaged row makes ASE raise almost anything
                    reason = f"{type(error).__name__}: {error}"[:200]
                    yield identity, RecordError(f"the row is damaged: {reason}")


def _identities(uri: str, path: str) -> list[int]:
    """Returns the numbers of the rows; looks before ASE, which makes a database of any file."""
    try:
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT id FROM systems ORDER BY id").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise SourceError(f"{uri} is no ASE database, or damaged: {error}") from error
    return [int(row[0]) for row in rows]


def _row_entry(row: Any) -> dict[str, Any]:
    entry = dict(row.key_value_pairs)
    entry |= {"id": row.id, "unique_id": row.unique_id, "data": dict(row.data)}
    entry |= {"numbers": row.numbers, "positions": row.positions, "cell": row.cell, "pbc": row.pbc}
    return entry | {name: row[name] for name in _RESULTS if row.get(name) is not None}
