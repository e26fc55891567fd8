"""Which structures a verb looks at: the first ones, or those named, of data or of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from epitaxy.app.structures import choose
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.errors import ConfigError, RecordError, SourceError

OPTIONS = {"data": None, "source": None, "recipe": None, "ids": None, "index": None, "limit": 10}


def config(**changes: Any) -> dict[str, Any]:
    return {**OPTIONS, **changes}


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Four hydrogen atoms in cells of 4, 5, 6 and 7 Å; the recipe leaves the last one out."""
    lines = []
    for name, length in enumerate((4, 5, 6, 7)):
        lattice = f"{length} 0 0 0 {length} 0 0 0 {length}"
        lines += ["1", f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 name=h{name}']
        lines += ["Au 0 0 0" if length == 7 else "H 0 0 0"]
    (tmp_path / "frames.xyz").write_text("\n".join(lines) + "\n")
    (tmp_path / "light.yaml").write_text(
        "source: {_target_: epitaxy.data.sources.extxyz.ExtendedXyz, id_keys: [name]}\n"
        "filter: {max_atomic_number: 20}\n"
    )
    return tmp_path


def from_file(folder: Path, **changes: Any) -> dict[str, Any]:
    return config(source=str(folder / "frames.xyz"), recipe=str(folder / "light.yaml"), **changes)


def test_the_first_records_of_a_data_set(small_data: Path) -> None:
    chosen = choose(config(data=str(small_data), limit=3))
    known = Dataset.open(small_data).ids[:3].tolist()
    assert [record.id for record in chosen.records] == known
    assert chosen.note.startswith("the first 3 of 40 structures of ")
    assert "limit=3: a larger limit= takes more" in chosen.note
    assert choose(config(data=str(small_data), limit=40)).note.startswith("all 40 structures")


def test_named_records_come_in_the_order_asked_for(small_data: Path) -> None:
    chosen = choose(config(data=str(small_data), ids=["c0030", "c0002"], limit=1))
    assert [record.id for record in chosen.records] == ["c0030", "c0002"]
    assert chosen.note.startswith("2 of 40 structures")
    row = Dataset.open(small_data).rows_of(["c0030"])[0]
    (record,) = choose(config(data=str(small_data), index=int(row))).records
    assert record.id == "c0030"


def test_records_of_mixed_data_sets(small_data: Path, tmp_path: Path, crystals: Any) -> None:
    extra = crystals.rocksalt()
    prepare([extra, extra.replace(id="c0002")], tmp_path / "other", progress=False)
    both = [str(small_data), str(tmp_path / "other")]
    chosen = choose(config(data=both, ids=["rocksalt", "c0002"]))
    assert chosen.records[0].num_atoms == 8
    assert chosen.records[1] == Dataset.open(small_data).record(2)
    assert chosen.note.startswith("2 of 42 structures")
    assert choose(config(data=both, index=[40])).records[0].id == "rocksalt"


def test_the_first_records_of_a_file(frames: Path) -> None:
    chosen = choose(from_file(frames, limit=2))
    assert [record.cell[0, 0] for record in chosen.records] == [4, 5]
    assert chosen.note.startswith("the first 2 structures of ")
    chosen = choose(from_file(frames))
    assert [record.cell[0, 0] for record in chosen.records] == [4, 5, 6]
    assert "all 3 structures" in chosen.note
    assert "1 passed over" in chosen.note
    assert "atomic number > 20" in chosen.note


def test_named_records_of_a_file(frames: Path) -> None:
    chosen = choose(from_file(frames, ids=["h2", "h0"]))
    assert [record.id for record in chosen.records] == ["h2", "h0"]
    chosen = choose(from_file(frames, index=[1]))
    assert [record.id for record in chosen.records] == ["h1"]
    assert chosen.note.startswith("1 structure of ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give data=… "),
        ({"data": "a", "source": "b"}, "not both"),
        ({"data": "a", "ids": ["x"], "index": [1]}, r"ids=\[…\] or index=\[…\], not both"),
        ({"data": "a", "limit": 0}, "limit must be a whole number from 1 on, got 0"),
        ({"source": "a"}, "source=… needs recipe=…"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(config(**changes))


def test_what_is_not_there_is_refused(small_data: Path, frames: Path) -> None:
    with pytest.raises(RecordError, match="holds no record 'nope'"):
        choose(config(data=str(small_data), ids=["c0001", "nope"]))
    with pytest.raises(RecordError, match=r"index 40: .* holds 40 records"):
        choose(config(data=str(small_data), index=[40]))
    with pytest.raises(ConfigError, match="whole numbers from 0 on, got -1"):
        choose(config(data=str(small_data), index=[-1]))
    with pytest.raises(RecordError, match="holds no record 'h3'"):
        choose(from_file(frames, ids=["h3"]))  # the recipe leaves it out


def test_a_bad_record_is_refused_where_it_stands(frames: Path) -> None:
    with (frames / "frames.xyz").open("a", encoding="utf-8") as stream:
        stream.write('1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 name=h4\n')
        stream.write("H 0 0 here\n")
    assert len(choose(from_file(frames, limit=2)).records) == 2
    with pytest.raises(SourceError, match=r"frames\.xyz.*on_error=skip"):
        choose(from_file(frames))
