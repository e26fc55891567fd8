"""A CSV table with one record per row: a structure as text in one column, or a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import STRUCTURE_KEYS, EntrySource, column_range
from epitaxy.data.sources.files import open_text, stem
from epitaxy.data.sources.paths import slots
from epitaxy.errors import ConfigError, RecordError, SourceError, closest

_LONGEST_CELL = 1 << 27
_CONTEXT = ("number", "row", "file")


class CsvTable(EntrySource):
    """Reads ``.csv`` and ``.csv.gz`` files with a header line.

    Nothing but an empty cell counts as missing, unless the field lists it as such: the formula
    ``NaN`` is sodium nitride.

    Args:
        fields: Label name to its column, or ``3:303`` for columns 3 to 302 (counted from 0) as one
            vector.
        delimiter: What stands between cells: ``,``, ``;`` or a tab.
        **entry: How a row is understood; see ``EntrySource``. Arrays may stand in cells as JSON.
    """

    def __init__(
        self, fields: Mapping[str, FieldRule], *, delimiter: str = ",", **entry: Any
    ) -> None:
        super().__init__(fields, **entry)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter must be one character, got {delimiter!r}")
        self._delimiter = delimiter
        self._ranges = any(column_range(rule.key) for rule in fields.values())

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of a table; rows are numbered from 0, the header not counted.

        Raises:
            SourceError: If the table lacks a column or cannot be read.
        """
        csv.field_size_limit(_LONGEST_CELL)
        with open_text(uri) as stream:
            reader = csv.reader(stream, strict=True, delimiter=self._delimiter)
            try:
                header = [name.strip() for name in next(reader, [])]
                self._check_header(uri, header)
                rows = (row for row in reader if row)
                for number, row in enumerate(rows):
                    where = f"{uri}, row {number}"
                    if len(row) != len(header):
                        counts = f"more or fewer cells ({len(row)}) than columns ({len(header)})"
                        yield BadRecord(where, RecordError(f"the row has {counts}"))
                        continue
                    context = {"number": number, "row": number + 1, "file": stem(uri)}
                    cells = [text.strip() for text in row]
                    named = dict(zip(header, cells, strict=True))
                    if self._ranges:
                        named = {str(place): cell for place, cell in enumerate(cells)} | named
                    yield Piece(where, (context, named))
            except csv.Error as error:
                raise SourceError(f"{uri}, line {reader.line_num}: {error}") from error

    def _check_header(self, uri: str, header: list[str]) -> None:
        wanted = [rule.key for rule in self._fields.values() if not rule.optional]
        wanted = [key for key in wanted if not column_range(key)]
        wanted += [name for name in (self._composition, self._structure) if name]
        wanted += list(self._arrays.values())
        if not (self._composition or self._structure or self._arrays):
            wanted += [] if set(STRUCTURE_KEYS) & set(header) else ["cif"]
        templates = [self._id, *([self._group] if self._group else [])]
        wanted += [name for text in templates for name in slots(text) if name not in _CONTEXT]
        for column in wanted:
            if column not in header:
                raise SourceError(
                    f"{uri} has no column {column!r}; {closest(column, header)}{self._hint(header)}"
                )
            if header.count(column) > 1:
                raise SourceError(f"{uri} has two columns {column!r}")

    def _hint(self, header: list[str]) -> str:
        for character in (";", "\t", "|", ","):
            if len(header) == 1 and character != self._delimiter and character in header[0]:
                return f" (the cells look separated by {character!r}: set delimiter)"
        return ""
