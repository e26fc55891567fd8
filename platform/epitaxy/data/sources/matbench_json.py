"""MatBench files: a table of structures (or compositions) and targets as pandas writes JSON.

Read are the layout of the benchmark (``index``, ``columns``, ``data``), pandas' default (column →
row → value) and a list of rows. The table is held in memory row by row where the layout allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.data.sources.json_stream import JsonReader
from epitaxy.errors import SourceError


class MatbenchJson(EntrySource):
    """Reads ``.json`` and ``.json.gz`` tables.

    Args:
        fields: Label name to its column.
        **entry: How a row is understood; see ``EntrySource``. Templates know ``index``, the row's
            name in the file, and ``row``, one more than a whole-number ``index``: the benchmark
            calls its records ``mb-phonons-{row:04d}``.
    """

    def __init__(self, fields: Mapping[str, FieldRule], **entry: Any) -> None:
        super().__init__(fields, **entry)

    def pieces(self, uri: str) -> Iterator[Piece]:
        """Yields the rows of a table, numbered from 0.

        Raises:
            SourceError: If the file has none of the three layouts, or is cut off.
        """
        with open_text(uri) as stream:
            reader = JsonReader(uri, stream)
            rows = _rows(reader) if reader.peek() in ("{", "[") else None
            if rows is None:
                raise reader.error("must hold a JSON table")
            for number, (index, row) in enumerate(rows):
                context = {"number": number, "index": index, "file": stem(uri)}
                if isinstance(index, int) or str(index).isdecimal():
                    context["index"] = int(index)
                    context["row"] = int(index) + 1
                yield Piece(f"{uri}, row {number} (index {index})", (context, row))


def _rows(reader: JsonReader) -> Iterator[tuple[Any, dict[str, Any]]]:
    if reader.peek() == "[":
        for place in reader.items():
            yield place, reader.value()
        return
    known: dict[str, Any] = {}
    for key in reader.items():
        if key == "data" and {"index", "columns"} <= set(known):
            yield from _split_rows(reader, known["index"], known["columns"])
            known["data"] = None
        else:
            known[str(key)] = reader.value()
    if set(known) >= {"columns", "data"}:
        if known["data"] is not None:
            index = known.get("index") or range(len(known["data"]))
            _check_count(reader, index, len(known["data"]))
            for name, values in zip(index, known["data"], strict=True):
                yield name, _named(reader, known["columns"], values)
        return
    yield from _column_rows(reader, known)


def _split_rows(
    reader: JsonReader, index: list[Any], columns: list[str]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    if reader.peek() != "[":
        raise reader.error("has 'data' that is no list")
    count = 0
    for place in reader.items():
        if int(place) >= len(index):
            raise reader.error(f"has more rows than the {len(index)} of its index")
        count += 1
        yield index[int(place)], _named(reader, columns, reader.value())
    _check_count(reader, index, count)


def _check_count(reader: JsonReader, index: Any, count: int) -> None:
    if len(index) != count:
        raise reader.error(f"has {count} rows, but an index of {len(index)}")


def _named(reader: JsonReader, columns: list[str], values: Any) -> dict[str, Any]:
    if not isinstance(values, list) or len(values) != len(columns):
        raise reader.error(f"has a row that does not fit its columns {columns}")
    return dict(zip(columns, values, strict=True))


def _column_rows(reader: JsonReader, known: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not known or not all(isinstance(column, Mapping) for column in known.values()):
        raise SourceError(
            f"{reader.uri} is no table: expected index, columns and data, or one object per "
            f"column; it has {', '.join(known)[:120]}"
        )
    names = list(next(iter(known.values())))
    for name in names:
        yield name, {key: column.get(name) for key, column in known.items()}
