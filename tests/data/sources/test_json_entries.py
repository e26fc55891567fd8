"""JSON lists of JARVIS and ALIGNN."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.convert import prepare
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources import jarvis_json
from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.json_entries import JsonEntries, iterate_list
from epitaxy.errors import RecordError, SourceError
from epitaxy.graph.record import CrystalRecord

ATOMS = {
    "lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Cs", "Cl"],
    "cartesian": False,
}
FIELDS = {"gap": FieldRule("target", "eV")}


def write(path: Path, entries: Any) -> str:
    text = json.dumps(entries).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def read(path: str, **options: str) -> list[Any]:
    return list(JsonEntries(FIELDS, **options).read(path))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_entries_become_records(tmp_path: Path, name: str) -> None:
    entries = [
        {"jid": 7, "target": 1.5, "atoms": ATOMS, "family": "halide"},
        {"jid": "8", "target": None, "atoms": {**ATOMS, "cartesian": True}, "family": 3},
        {"jid": 9, "target": "na", "atoms": ATOMS, "family": "halide"},
    ]
    path = write(tmp_path / name, entries)
    first, second, third = read(path, id_prefix="gap-", group_key="family")
    assert (first.id, first.group) == ("gap-7", "halide")
    assert (second.id, second.group) == ("gap-8", "3")
    assert float(first.labels["gap"].value) == 1.5
    assert not second.labels
    assert not third.labels
    assert first.positions[1].tolist() == [2, 2, 2]
    assert second.positions[1].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"jid": 1, "target": float("nan"), "atoms": ATOMS}, "'gap' holds NaN"),
        ({"jid": 1, "target": "x", "atoms": ATOMS}, "not a number"),
        ({"jid": 1, "targt": 1, "atoms": ATOMS}, "no 'target' for label 'gap'.*mean 'targt'"),
        ({"jid": 1, "target": 1}, "the entry has no 'atoms'"),
        ({"target": 1, "atoms": ATOMS}, "the entry has no 'jid'"),
        ({"jid": 1, "target": 1, "atoms": {**ATOMS, "coords": [[0, 0, 0]]}}, "has shape"),
        ("text", "expected a dictionary"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    path = write(tmp_path / "a.json", [entry, {"jid": 2, "target": 1, "atoms": ATOMS}])
    bad, good = read(path)
    assert isinstance(good, CrystalRecord)
    assert isinstance(bad, BadRecord)
    assert bad.where.startswith(f"{path}, entry 0 (")
    with pytest.raises(RecordError, match=message):
        raise bad.error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=4), max_size=8),
    st.integers(3, 40),
    st.sampled_from([None, 1]),
)
def test_any_list_is_read_in_pieces(entries: list[Any], chunk: int, indent: int | None) -> None:
    text = "\n " + json.dumps(entries, indent=indent) + "\n"
    original = jarvis_json._CHUNK
    try:
        jarvis_json._CHUNK = chunk
        assert list(iterate_list("x.json", io.StringIO(text))) == entries
    finally:
        jarvis_json._CHUNK = original


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"jid": 1}', "must hold a JSON list"),
        ("", "must hold a JSON list"),
        ('[{"a": 1}, {"a"', "malformed or cut off after 1 entries"),
        ('[{"a": 1}, {"a": 2}', "malformed or cut off after 2 entries"),
        ('[{"a": 1}, {a: 2}]', "malformed or cut off after 1 entries"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list(iterate_list("x.json", io.StringIO(text)))


def test_a_truncated_gzip_counts_the_good_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = [{"jid": i, "target": rng.random(), "atoms": ATOMS} for i in range(3000)]
    path = tmp_path / "a.json.gz"
    write(path, entries)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"a\.json\.gz is cut off after \d+ entries"):
        read(str(path))


def test_a_trajectory_that_repeats_its_id_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    """Fifty frames of three relaxations, with three different ids."""
    recipe = Recipe.from_dict(
        {
            "source": {"_target_": "epitaxy.data.sources.json_entries.JsonEntries"},
            "fields": {"energy": {"key": "total_energy", "unit": "eV"}},
        },
        "frames",
    )
    source = data_dir / "importers" / "alignn_ff_id_prop.json"
    with pytest.raises(RecordError, match=r"id '15607' occurs twice: first in .* record 0, again"):
        prepare(source, tmp_path / "out", recipe=recipe)
    manifest = prepare(source, tmp_path / "out", recipe=recipe, on_error="skip")
    assert (manifest.num_records, manifest.skipped.count) == (3, 47)
