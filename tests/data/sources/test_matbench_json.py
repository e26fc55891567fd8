"""Tables as pandas writes JSON, in all its layouts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.matbench_json import MatbenchJson
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

STRUCTURE = {
    "lattice": {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]},
    "sites": [{"species": [{"element": "Po", "occu": 1}], "abc": [0, 0, 0]}],
}
FIELDS = {"gap": FieldRule("gap pbe", "eV")}
ROWS = [{"structure": STRUCTURE, "gap pbe": gap} for gap in (0.5, 1.5, None)]
INDEX = [0, 3, 7]
SPLIT = {
    "index": INDEX,
    "columns": ["structure", "gap pbe"],
    "data": [[row["structure"], row["gap pbe"]] for row in ROWS],
}


def write(path: Path, content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def read(path: str, fields: dict[str, FieldRule] = FIELDS, **options: Any) -> list[Any]:
    return list(MatbenchJson(fields, **options).read(path))


def gaps(records: list[Any]) -> list[float | None]:
    return [float(r.labels["gap"].value) if "gap" in r.labels else None for r in records]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, index=INDEX)


LAYOUTS = {
    "split": json.dumps(SPLIT),
    "data first": json.dumps({key: SPLIT[key] for key in ("data", "columns", "index")}),
    "columns": json.dumps({key: {str(i): row[key] for i, row in zip(INDEX, ROWS, strict=True)}
                           for key in ROWS[0]}),
    "index": json.dumps({str(i): row for i, row in zip(INDEX, ROWS, strict=True)}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["mb.json", "mb.json.gz"])
def test_layouts_with_an_index(tmp_path: Path, layout: str, name: str) -> None:
    records = read(write(tmp_path / name, LAYOUTS[layout]), id="mb-gap-{row:05d}")
    assert [record.id for record in records] == ["mb-gap-00001", "mb-gap-00004", "mb-gap-00008"]
    assert gaps(records) == [0.5, 1.5, None]
    assert records[0].numbers.tolist() == [84]
    assert [record.id for record in read(str(tmp_path / name))] == ["mb-0", "mb-3", "mb-7"]


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table", "values"])
def test_what_pandas_writes(tmp_path: Path, orient: Any) -> None:
    path = write(tmp_path / "a.json", frame().to_json(orient=orient))
    if orient == "values":
        bad = read(path)
        assert "expected a dictionary" in str(bad[0].error)
        return
    records = read(path)
    assert gaps(records) == [0.5, 1.5, None]
    expected = [0, 1, 2] if orient == "records" else INDEX
    assert [record.id for record in records] == [f"a-{index}" for index in expected]


def test_columns_as_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {key: [row[key] for row in ROWS] for key in ROWS[0]})
    assert gaps(read(path)) == [0.5, 1.5, None]


def test_an_index_of_names(tmp_path: Path) -> None:
    names = ["mb-a-001", "mb-a-002", "mb-a-003"]
    path = write(tmp_path / "a.json", {**SPLIT, "index": names})
    assert [record.id for record in read(path, id="index")] == names


def test_compositions(tmp_path: Path) -> None:
    content = {"index": [0], "columns": ["composition", "gap pbe"], "data": [["NaN", 2.0]]}
    (record,) = read(write(tmp_path / "a.json", content), composition="composition")
    assert record.is_composition
    assert record.numbers.tolist() == [7, 11]


def test_a_row_that_does_not_fit_is_named_and_passed_over(tmp_path: Path) -> None:
    for order in (("index", "columns", "data"), ("data", "columns", "index")):
        content = {**SPLIT, "data": [SPLIT["data"][0], [STRUCTURE], 5]}
        first, *bad = read(write(tmp_path / "a.json", {key: content[key] for key in order}))
        assert isinstance(first, CrystalRecord)
        assert [item.where for item in bad] == [
            f"{tmp_path}/a.json, row 1 (index 3)", f"{tmp_path}/a.json, row 2 (index 7)",
        ]  # fmt: skip
        assert "the row has 1 cells for 2 columns" in str(bad[0].error)
        assert "the row has no cells for 2 columns" in str(bad[1].error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", "must hold a JSON table"),
        ("", "must hold a JSON table"),
        ({}, "is no table: expected index, columns and data.*it has nothing"),
        ({"a": 1, "b": {}}, "is no table.*it has a, b"),
        ({"a": [1], "b": [1, 2]}, "is no table"),
        ({**SPLIT, "index": [0, 1]}, "has more rows than the 2 of its index"),
        ({**SPLIT, "index": [0, 1, 2, 3]}, "has 3 rows, but an index of 4"),
        ({**SPLIT, "index": 3}, "has 'index' that is no list"),
        ({**SPLIT, "columns": {"a": 1}}, "has 'columns' that is no list"),
        ({**SPLIT, "data": {"0": []}}, "has 'data' that is no list"),
        ({"columns": ["a"], "data": 3}, "has 'data' that is no list"),
        ({"data": [[1]], "columns": ["a"], "index": [1, 2]}, "has 1 rows, but an index of 2"),
        (LAYOUTS["split"][:-30], "malformed or cut off"),
        (LAYOUTS["split"] + "]", "more text after its end"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(SourceError, match=rf"a\.json .*{message}"):
        read(write(tmp_path / "a.json", content))


def test_bad_structures_are_named(tmp_path: Path) -> None:
    content = {**SPLIT, "data": [[{"sites": [{}]}, 0], [None, 1], [STRUCTURE, 2]]}
    one, two, good = read(write(tmp_path / "a.json", content), structure="structure")
    assert isinstance(good, CrystalRecord)
    assert isinstance(one, BadRecord)
    with pytest.raises(RecordError, match="site 0: '' is no element"):
        raise one.error
    with pytest.raises(RecordError, match="the entry has no 'structure', only structure, gap pbe"):
        raise two.error


def test_phonons_of_the_benchmark(data_dir: Path) -> None:
    """1,138 of 1,265 rows; the index keeps the numbers of the original, so it has gaps."""
    path = data_dir / "matbench" / "matbench_phonons.json.gz"
    source = MatbenchJson({"peak": FieldRule("last phdos peak", "1/cm")}, id="mb-phonons-{row:04d}")
    pieces = list(source.pieces(str(path)))
    assert len(pieces) == 1138
    with gzip.open(path, "rt") as stream:
        table = json.load(stream)
    chosen = range(0, 1138, 97)
    for place in chosen:
        record: Any = source.record(pieces[place])  # type: ignore[arg-type]
        assert record.id == f"mb-phonons-{table['index'][place] + 1:04d}"
        assert float(record.labels["peak"].value) == table["data"][place][1]
        assert record.num_atoms == len(table["data"][place][0]["sites"])
    assert table["index"][2] == 3  # row 2 is held out
