"""``prepare``: complete or absent, every bad record named, nothing dropped silently."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.derived import LabelMaker, derivable
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.split_files import list_splits, load_split
from epitaxy.errors import ConfigError, RecordError, ShardError, SourceError, UnitError
from epitaxy.graph.record import CrystalRecord, Label

FRAME = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 {extra} pbc="T T T"
Na 0 0 0 0.1 0 0
Cl 2 2 2 -0.1 0 0
"""
RECIPE = Recipe.from_dict(
    {
        "source": {"_target_": "epitaxy.data.sources.extxyz.ExtendedXyz", "id_keys": ["id"]},
        "fields": {
            "energy": {"key": "energy", "unit": "Ha", "scheme": "PBE"},
            "forces": {"key": "forces", "unit": "Ha/bohr", "per_atom": True, "scheme": "PBE"},
            "stress": {"key": "stress", "unit": "kbar", "sign": "compression_positive"},
        },
        "licence": "CC0",
        "citation": "nobody",
    },
    "salt",
)


def write_frames(path: Path, *extras: str) -> Path:
    stress = 'stress="16.02176634 0 0 0 0 0 0 0 0"'
    path.write_text("".join(FRAME.format(extra=f"{extra} {stress}") for extra in extras))
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_units_and_signs_are_converted_and_recorded(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1.0")
    manifest = prepare(str(source), tmp_path / "out", recipe=RECIPE)
    record = Dataset.open(tmp_path / "out").record(0)
    assert float(record.labels["energy"].value) == pytest.approx(-27.211386245988)
    # 1 Ha/bohr = 51.42206747 eV/Å (CODATA); 16.02 kbar of pressure = 0.01 eV/Å³ of compression.
    assert record.labels["forces"].value[0, 0] == pytest.approx(5.142206747, rel=1e-7)
    assert record.labels["stress"].value[0, 0] == pytest.approx(-0.01, rel=1e-6)
    assert [(c["label"], c["from"], c["to"]) for c in manifest.conversions] == [
        ("energy", "Ha", "eV"),
        ("forces", "Ha/bohr", "eV/Å"),
        ("stress", "kbar", "eV/Å^3"),
    ]
    assert manifest.conversions[2]["sign"] == "compression_positive"
    assert manifest.conversions[2]["multiplied_by"] < 0


def test_the_manifest_says_where_the_data_come_from(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1.0", "id=f2 energy=-2.0")
    prepare(str(source), tmp_path / "out", recipe=RECIPE, shard_size=1)
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest.num_records == 2
    assert [(shard.first, shard.count) for shard in manifest.shards] == [(0, 1), (1, 1)]
    assert manifest.source["uri"] == str(source)
    assert manifest.source["files"][0]["bytes"] == source.stat().st_size
    assert (manifest.licence, manifest.citation) == ("CC0", "nobody")
    assert Recipe.from_dict(manifest.recipe) == RECIPE
    assert {field.name: field.scheme for field in manifest.fields}["energy"] == "PBE"
    assert manifest.generator.startswith("epitaxy ")


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    first = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1")
    second = write_frames(tmp_path / "b.xyz", "id=f2 energy=-2")
    prepare(f"{first},{second}", tmp_path / "list", recipe=RECIPE)
    prepare(str(tmp_path / "*.xyz"), tmp_path / "pattern", recipe=RECIPE)
    listed, matched = (Dataset.open(tmp_path / name) for name in ("list", "pattern"))
    assert listed.ids.tolist() == ["f1", "f2"]
    assert listed.data_digest == matched.data_digest


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    first = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1", "id=f2 energy=-1")
    second = write_frames(tmp_path / "b.xyz", "id=f3 energy=-2", "id=f2 energy=-2")
    with pytest.raises(RecordError) as caught:
        prepare(f"{first},{second}", tmp_path / "out", recipe=RECIPE)
    assert "'f2' occurs twice" in str(caught.value)
    assert f"{first}, record 1" in str(caught.value)
    assert f"{second}, record 1" in str(caught.value)
    assert files(tmp_path) == {"a.xyz", "b.xyz"}


def test_a_bad_record_stops_and_names_its_place(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1", "id=f2 energy=NaN")
    with pytest.raises(RecordError, match=r"a\.xyz, frame 1: label 'energy' holds NaN") as e:
        prepare(str(source), tmp_path / "out", recipe=RECIPE)
    assert "on_error=skip" in str(e.value)
    assert files(tmp_path) == {"a.xyz"}


def test_skipping_counts_and_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extras = [
        "id=f1 energy=-1",
        "id=f2 energy=NaN",
        "id=f1 energy=-3",
        "energy=-4",
        "id=f5 energy=-5",
    ]
    source = write_frames(tmp_path / "a.xyz", *extras)
    manifest = prepare(str(source), tmp_path / "out", recipe=RECIPE, on_error="skip")
    assert (manifest.num_records, manifest.skipped.count) == (2, 3)
    wheres, whys = zip(*manifest.skipped.listed, strict=True)
    assert wheres[0] == f"{source}, frame 1"
    assert ["NaN" in whys[0], "occurs twice" in whys[1], "no id" in whys[2]] == [True] * 3
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in lines] == list(wheres)
    assert "3 bad records were skipped, 2 kept" in caplog.text
    assert Dataset.open(tmp_path / "out").ids.tolist() == ["f1", "f5"]


def test_a_source_without_a_good_record_is_an_error(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", "id=f2 energy=NaN")
    with pytest.raises(SourceError, match="no usable record, 1 bad ones; the first"):
        prepare(str(source), tmp_path / "out", recipe=RECIPE, on_error="skip")
    with pytest.raises(SourceError, match="no usable record, 0 bad"):
        prepare([], tmp_path / "out")
    assert files(tmp_path) == {"a.xyz"}


def test_file_level_trouble_stops_even_when_skipping(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1", "id=f2 energy=-1")
    source.write_text(source.read_text()[:-30])
    with pytest.raises(SourceError, match="ends inside frame 1"):
        prepare(str(source), tmp_path / "out", recipe=RECIPE, on_error="skip")
    with pytest.raises(SourceError, match="there is no file"):
        prepare(str(tmp_path / "nowhere.xyz"), tmp_path / "out", recipe=RECIPE)


def test_any_error_of_a_source_counts_as_a_bad_record(crystals: Any, tmp_path: Path) -> None:
    items = [crystals.fcc(), BadRecord("row 1", KeyError("lattice"))]
    with pytest.raises(RecordError, match="row 1: KeyError: 'lattice'"):
        prepare(items, tmp_path / "out")
    assert prepare(items, tmp_path / "out", on_error="skip").skipped.count == 1


def test_one_label_means_one_thing(crystals: Any, tmp_path: Path) -> None:
    first, second = crystals.many(2)
    other = second.replace(labels={"energy": Label(np.array(1.0), "eV", "SCAN")})
    with pytest.raises(RecordError, match="scheme 'SCAN', but record 'c0000' has scheme ''"):
        prepare([first, other], tmp_path / "out")


def test_energies_come_in_the_units_of_the_project(crystals: Any, tmp_path: Path) -> None:
    record = crystals.fcc().replace(labels={"energy": Label(np.array(1.0), "Ha")})
    with pytest.raises(UnitError, match="record 0: record 'fcc': energy is in 'Ha', expected 'eV'"):
        prepare([record], tmp_path / "out")


def test_an_existing_folder_is_not_touched(crystals: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"exists already|is no prepared data set"):
            prepare([crystals.fcc()], out, overwrite=overwrite)
    assert files(out) == {"thesis.tex"}


def test_a_data_set_is_replaced_on_request_only(crystals: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(crystals.many(4), out)
    before = Dataset.open(out)
    assert before.record(0).id == "c0000"
    with pytest.raises(ConfigError, match="overwrite=true"):
        prepare([crystals.fcc()], out)
    prepare([crystals.fcc()], out, overwrite=True, format="zarr")
    assert Dataset.open(out).record(0) == crystals.fcc()
    assert files(tmp_path) == {"out"}


def test_a_failed_replacement_keeps_the_old_one(crystals: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(crystals.many(4), out)
    with pytest.raises(RecordError, match="occurs twice"):
        prepare([crystals.fcc(), crystals.fcc()], out, overwrite=True)
    assert len(Dataset.open(out)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_error": "skp"}, "did you mean 'skip'"),
        ({"format": "lmbd"}, "did you mean 'lmdb'"),
        ({"shard_size": 0}, "at least 1"),
        ({"fingerprint": "magpy"}, "did you mean 'magpie'"),
    ],
)
def test_wrong_arguments_get_a_hint(
    crystals: Any, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ShardError), match=message):
        prepare([crystals.fcc()], tmp_path / "out", **arguments)


def test_derived_labels_are_stored_like_any_other(crystals: Any, tmp_path: Path) -> None:
    pytest.importorskip("matminer", reason="matminer is in the dev extra")
    salt, helium = crystals.rocksalt(), crystals.fcc(2).replace(id="helium")
    with pytest.raises(RecordError, match=r"unknown properties of He.*on_error=skip leaves"):
        prepare([salt, helium], tmp_path / "out", fingerprint="magpie")
    manifest = prepare(
        [salt, helium], tmp_path / "out", fingerprint="magpie", symmetry=True, on_error="skip"
    )
    assert (manifest.num_records, manifest.skipped.count) == (1, 1)
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.fields == derivable()
    assert dataset.record(0) == LabelMaker()(salt, tuple(derivable()))
    recipe = Recipe(**{**vars(RECIPE), "fields": {}, "fingerprint": "magpie"})
    source = write_frames(tmp_path / "a.xyz", "id=f1")
    prepare(str(source), tmp_path / "told", recipe=recipe)
    assert Dataset.open(tmp_path / "told").record(0).labels["magpie"].value.shape == (145,)


def test_a_path_needs_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a recipe"):
        prepare("a.xyz", tmp_path / "out")


def test_a_label_that_never_occurs_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = {"gap": {"key": "gap", "optional": True}}
    recipe = Recipe.from_dict({"source": RECIPE.source, "fields": rules}, "gaps")
    source = write_frames(tmp_path / "a.xyz", "id=f1 energy=-1")
    prepare(str(source), tmp_path / "out", recipe=recipe)
    assert "label 'gap' of the recipe occurs in no record" in caplog.text


def test_records_stream_through(crystals: Any, tmp_path: Path) -> None:
    """The source is never asked for more than the shard being written needs."""
    record, live, peak = crystals.fcc(), 0, 0

    class Counted(CrystalRecord):
        def __del__(self) -> None:
            nonlocal live
            live -= 1

    def source() -> Iterator[CrystalRecord]:
        nonlocal live, peak
        for index in range(1000):
            live += 1
            peak = max(peak, live)
            yield Counted(f"r{index}", record.numbers, record.positions, record.cell)

    prepare(source(), tmp_path / "out")
    assert peak < 300  # the block whose neighbours are counted together


KILLED = """
import sys, time
from epitaxy.data.convert import prepare
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.split_files import list_splits, load_split
import numpy as np
from epitaxy.graph.record import CrystalRecord

def records():
    for index in range(130):
        yield CrystalRecord(f"r{index}", np.array([29]), np.zeros((1, 3)), np.eye(3) * 3)
    print("writing", flush=True)
    time.sleep(600)

prepare(records(), sys.argv[1], shard_size=16, overwrite=True)
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_run_leaves_nothing_that_looks_complete(
    crystals: Any, tmp_path: Path, replacing: bool
) -> None:
    out = tmp_path / "out"
    if replacing:
        prepare(crystals.many(3), out)
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    with pytest.raises(ConfigError, match="it is writing this data set now"):
        prepare(crystals.many(2), out, overwrite=True)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    leftovers = [path for path in tmp_path.iterdir() if ".tmp-" in path.name]
    assert len(leftovers) == 1
    assert (leftovers[0] / "shard-00001.lmdb").exists()
    with pytest.raises(ShardError, match="not a prepared data set"):
        Dataset.open(leftovers[0])
    if replacing:
        assert len(Dataset.open(out)) == 3
    else:
        assert not out.exists()
    prepare(crystals.many(2), out, overwrite=True)
    Dataset.open(out).verify()
    assert files(tmp_path) == {"out"}


def test_splits_of_the_recipe_are_stored_where_they_can_be_made(
    crystals: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {
        "source": {"_target_": "epitaxy.data.sources.emt.EmtTrajectories"},
        "splits": {
            "half": {"by": "record", "fractions": [0.5, 0.25, 0.25]},
            "wide": {"sizes": [1, 2, 9]},
        },
    }
    recipe = Recipe.from_dict(content, "mine")
    prepare(crystals.many(8), tmp_path / "out", recipe=recipe, checks="off")
    dataset = Dataset.open(tmp_path / "out")
    assert list_splits(dataset) == ["half"]
    rows = load_split(dataset, "half").rows
    assert [len(rows[part]) for part in ("train", "val", "test")] == [4, 2, 2]
    assert "split 'wide' of the recipe is not stored" in caplog.text


def test_rules_of_the_recipe_leave_records_out_and_count_them(
    crystals: Any, tmp_path: Path
) -> None:
    content = {
        "source": {"_target_": "epitaxy.data.sources.emt.EmtTrajectories"},
        "filter": {"max_atoms": 3},
    }
    records = crystals.many(20)
    small = [record.id for record in records if record.num_atoms <= 3]
    manifest = prepare(
        records, tmp_path / "out", recipe=Recipe.from_dict(content, "m"), checks="off"
    )
    assert Dataset.open(tmp_path / "out").ids.tolist() == small
    assert dict(manifest.filtered) == {"num_atoms > 3": 20 - len(small)}
    assert manifest.skipped.count == 0


def test_many_processes_write_the_same_bytes(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "a.xyz", *[f"id=f{n} energy={-n}" for n in range(700)])
    one = prepare(str(source), tmp_path / "one", recipe=RECIPE, checks="off")
    two = prepare(str(source), tmp_path / "two", recipe=RECIPE, checks="off", workers=2)
    assert one.data_digest == two.data_digest
    assert [f.sha256 for f in one.files] == [f.sha256 for f in two.files]
    assert Dataset.open(tmp_path / "two").ids.tolist() == [f"f{n}" for n in range(700)]


def test_records_of_a_program_are_parsed_by_several_processes(
    crystals: Any, tmp_path: Path
) -> None:
    """More than this process does by itself before it starts others."""
    records = [
        crystals.triclinic(seed, 2).replace(id=f"r{seed:03d}", group="") for seed in range(330)
    ]
    one = prepare(iter(records), tmp_path / "one", checks="off", progress=False)
    two = prepare(iter(records), tmp_path / "two", checks="off", progress=False, workers=2)
    assert two.num_records == 330
    assert [shard.sha256 for shard in two.shards] == [shard.sha256 for shard in one.shards]
