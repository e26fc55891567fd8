"""A CSV table with one record per row: a structure as text in one column, or a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import STRUCTURE_KEYS, EntrySource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.errors import ConfigError, RecordError, SourceError, closest

_LONGEST_CELL = 1 << 27


class CsvTable(EntrySource):
    """Reads ``.csv`` and ``.csv.gz`` files with a header line.

    Nothing but an empty cell counts as missing: the formula ``NaN`` is sodium nitride.

    Args:
        fields: Label name to its column.
        delimiter: What stands between cells.
        **entry: How a row is understood; see ``EntrySource``.
    """

    def __init__(
        self, fields: Mapping[str, FieldRule], *, delimiter: str = ",", **entry: Any
    ) -> None:
        super().__init__(fields, **entry)
        if len(delimiter) != 1:
            raise ConfigError(f"delimiter must be one character, got {delimiter!r}")
        self._delimiter = delimiter

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of a table; rows are numbered from 0, the header not counted.

        Raises:
            SourceError: If the table lacks a column or cannot be read.
        """
        csv.field_size_limit(_LONGEST_CELL)
        with open_text(uri) as stream:
            reader = csv.DictReader(stream, strict=True, delimiter=self._delimiter)
            try:
                self._check_header(uri, list(reader.fieldnames or []))
                for number, row in enumerate(reader):
                    where = f"{uri}, row {number}"
                    if None in row or None in row.values():
                        error = RecordError("the row has more or fewer cells than the header")
                        yield BadRecord(where, error)
                        continue
                    context = {"number": number, "row": number + 1, "file": stem(uri)}
                    cells = {key: text.strip() for key, text in row.items()}
                    yield Piece(where, (context, cells))
            except csv.Error as error:
                raise SourceError(f"{uri}, line {reader.line_num}: {error}") from error

    def _check_header(self, uri: str, header: list[str]) -> None:
        twice = {name for name in header if header.count(name) > 1}
        if twice:
            raise SourceError(f"{uri} has two columns {min(twice)!r}")
        wanted = [rule.key for rule in self._fields.values() if not rule.optional]
        wanted += [name for name in (self._composition, self._structure) if name]
        if not (self._composition or self._structure or self._arrays):
            wanted += [] if set(STRUCTURE_KEYS) & set(header) else ["cif"]
        wanted += [name for name in (self._id, self._group) if name and "{" not in name]
        for column in wanted:
            if column not in header:
                raise SourceError(f"{uri} has no column {column!r}; {closest(column, header)}")
