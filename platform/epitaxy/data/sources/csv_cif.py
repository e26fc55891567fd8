"""A CSV table with one crystal per row, its structure as CIF text in one column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping

from epitaxy.data.sources.contract import BadRecord, FieldRule, read_labels
from epitaxy.data.sources.files import open_text
from epitaxy.data.sources.structures import parse_cif
from epitaxy.errors import RecordError, SourceError, closest
from epitaxy.graph.record import CrystalRecord

_LONGEST_CELL = 1 << 27


class CsvCif:
    """Reads ``.csv`` and ``.csv.gz`` files with a header line.

    Nothing but an empty cell counts as missing: the formula ``NaN`` is sodium nitride.

    Args:
        fields: Label name to its column.
        id_column: Column of the record's id.
        cif_column: Column of the CIF text.
        group_column: Column of the record's group; if empty, the id is the group.
    """

    def __init__(
        self,
        fields: Mapping[str, FieldRule],
        id_column: str = "material_id",
        cif_column: str = "cif",
        group_column: str = "",
    ) -> None:
        self._fields = fields
        self._id_column = id_column
        self._cif_column = cif_column
        self._group_column = group_column

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the rows of a table; rows are numbered from 0, the header not counted.

        Raises:
            SourceError: If the table lacks a column or cannot be read.
        """
        csv.field_size_limit(_LONGEST_CELL)
        with open_text(uri) as stream:
            reader = csv.DictReader(stream, strict=True)
            try:
                self._check_header(uri, list(reader.fieldnames or []))
                for number, row in enumerate(reader):
                    where = f"{uri}, row {number} ({row[self._id_column] or 'without id'})"
                    try:
                        yield self._record(where, row)
                    except RecordError as error:
                        yield BadRecord(where, error)
            except csv.Error as error:
                raise SourceError(f"{uri}, line {reader.line_num}: {error}") from error

    def _check_header(self, uri: str, header: list[str]) -> None:
        wanted = [self._id_column, self._cif_column]
        wanted += [self._group_column] if self._group_column else []
        wanted += [rule.key for rule in self._fields.values() if not rule.optional]
        for column in wanted:
            if column not in header:
                raise SourceError(f"{uri} has no column {column!r}; {closest(column, header)}")

    def _record(self, where: str, row: Mapping[str, str | None]) -> CrystalRecord:
        if None in row.values() or None in row:
            raise RecordError("the row has more or fewer cells than the header")
        cells = {key: (text or "").strip() for key, text in row.items()}
        identity = cells[self._id_column]
        return CrystalRecord(
            identity,
            *parse_cif(cells[self._cif_column], where),
            labels=read_labels(self._fields, lambda rule: cells[rule.key] or None, cells),
            group=cells[self._group_column] if self._group_column else identity,
        )
