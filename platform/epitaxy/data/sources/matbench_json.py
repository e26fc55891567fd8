"""MatBench files: a table of structures (or compositions) and targets as pandas writes JSON.

Read are the layout of the benchmark (``index``, ``columns``, ``data``: pandas' ``split``) and
pandas' others: column → row → value, row → column → value, column → list, a list of rows, and a
table with its schema. The benchmark's layout is read row by row, the others at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import open_text, stem
from epitaxy.data.sources.json_stream import JsonReader
from epitaxy.data.sources.paths import printable
from epitaxy.errors import RecordError

Row = tuple[Any, dict[str, Any] | RecordError]
"""Name of a row in the file, and its cells by column or why there are none."""


class MatbenchJson(EntrySource):
    """Reads ``.json`` and ``.json.gz`` tables.

    Args:
        fields: Label name to its column.
        **entry: How a row is understood; see ``EntrySource``. Templates know ``index``, the row's
            name in the file, and ``row``, one more than a whole-number ``index``: the benchmark
            calls its records ``mb-phonons-{row:04d}``.
    """

    default_id = "{file}-{index}"

    def __init__(self, fields: Mapping[str, FieldRule], **entry: Any) -> None:
        super().__init__(fields, **entry)

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the rows of a table, numbered from 0.

        Raises:
            SourceError: If the file has none of the layouts, or is cut off.
        """
        wanted = {rule.key for rule in self._fields.values()}
        wanted |= {name for name in (self._structure, self._composition) if name}
        with open_text(uri) as stream:
            reader = JsonReader(uri, stream)
            if reader.peek() not in ("{", "["):
                raise reader.error("must hold a JSON table")
            for number, (index, row) in enumerate(_rows(reader, wanted)):
                where = f"{uri}, row {number} (index {printable(str(index), 40)})"
                if isinstance(row, RecordError):
                    yield BadRecord(where, row)
                    continue
                context = {"number": number, "row": number + 1, "index": index, "file": stem(uri)}
                if str(index).isdecimal() and len(str(index)) < 19:
                    context |= {"index": int(index), "row": int(index) + 1}
                yield Piece(where, (context, row))
            if reader.peek():
                raise reader.error("has more text after its end")


def _rows(reader: JsonReader, wanted: set[str]) -> Iterator[Row]:
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
            yield from _held_rows(reader, known)
    elif set(known) >= {"schema", "data"} and isinstance(known["data"], list):
        yield from ((_index(place, row), row) for place, row in enumerate(known["data"]))
    else:
        yield from _unnamed_layout(reader, known, wanted)


def _index(place: int, row: Any) -> Any:
    return row.get("index", place) if isinstance(row, Mapping) else place


def _held_rows(reader: JsonReader, known: Mapping[str, Any]) -> Iterator[Row]:
    """Yields the rows of the benchmark's layout with its keys in another order."""
    data, index = known["data"], known.get("index")
    if not isinstance(data, list):
        raise reader.error("has 'data' that is no list")
    index = list(range(len(data))) if index is None else index
    _check_lists(reader, index, known["columns"])
    _check_count(reader, index, len(data))
    for name, values in zip(index, data, strict=True):
        yield name, _named(known["columns"], values)


def _split_rows(reader: JsonReader, index: Any, columns: Any) -> Iterator[Row]:
    _check_lists(reader, index, columns)
    if reader.peek() != "[":
        raise reader.error("has 'data' that is no list")
    count = 0
    for count, _ in enumerate(reader.items(), 1):
        if count > len(index):
            raise reader.error(f"has more rows than the {len(index)} of its index")
        yield index[count - 1], _named(columns, reader.value())
    _check_count(reader, index, count)


def _check_lists(reader: JsonReader, index: Any, columns: Any) -> None:
    for name, value in (("index", index), ("columns", columns)):
        if not isinstance(value, list):
            raise reader.error(f"has {name!r} that is no list")


def _check_count(reader: JsonReader, index: Sequence[Any], count: int) -> None:
    if len(index) != count:
        raise reader.error(f"has {count} rows, but an index of {len(index)}")


def _named(columns: Sequence[Any], values: Any) -> dict[str, Any] | RecordError:
    if not isinstance(values, list) or len(values) != len(columns):
        count = len(values) if isinstance(values, list) else "no"
        return RecordError(f"the row has {count} cells for {len(columns)} columns")
    return dict(zip(map(str, columns), values, strict=True))


def _unnamed_layout(
    reader: JsonReader, known: Mapping[str, Any], wanted: set[str]
) -> Iterator[Row]:
    """Yields the rows of a table that is an object of columns, or of rows."""
    values = list(known.values())
    lengths = {len(value) for value in values if isinstance(value, (list, Mapping))}
    if values and all(isinstance(value, list) for value in values) and len(lengths) == 1:
        for place in range(lengths.pop()):
            yield place, {key: column[place] for key, column in known.items()}
    elif values and all(isinstance(value, Mapping) for value in values):
        if not wanted & set(known) and any(wanted & set(value) for value in values):
            yield from known.items()  # an object of rows
            return
        names = {name: None for value in values for name in value}
        for name in names:
            yield name, {key: column.get(name) for key, column in known.items()}
    else:
        keys = printable(", ".join(known), 120) or "nothing"
        raise reader.error(
            "is no table: expected index, columns and data, or columns of one length; it has "
            f"{keys}"
        )
