"""A first look into unknown files: the right source, the keys, a draft that can be completed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from epitaxy.data.recipe import Recipe
from epitaxy.data.survey import survey
from epitaxy.errors import ConfigError, SourceError
from epitaxy.graph.record import CrystalRecord

ATOMS = {"lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "coords": [[0, 0, 0]], "elements": ["K"]}
ENTRY = {
    "jid": "a",
    "atoms": ATOMS,
    "out": {"total_energy": -1.5, "force": [[0, 0, 0]], "stress": [1, 1, 1, 0, 0, 0]},
    "gap": 2,
}


def test_an_unknown_json_is_drafted_and_the_draft_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ENTRY]))
    found = survey(str(path))
    assert found.source.endswith("json_entries.JsonEntries")
    assert found.keys["out.total_energy"] == "float -1.5"
    assert found.keys["out.force"] == "1×3 of int"
    assert found.keys["atoms"] == "structure of 1 atoms"
    draft = yaml.safe_load(found.draft)
    assert draft["fields"]["energy"]["key"] == "out.total_energy"
    assert draft["fields"]["forces"]["key"] == "out.force"
    assert draft["fields"]["stress"]["key"] == "out.stress"
    assert draft["fields"]["gap"]["key"] == "gap"
    with pytest.raises(ConfigError, match=r"unit is still '\?\?\?'"):
        Recipe.from_dict(draft, "drafted")
    # What only the user knows is asked for, and answering it is all there is to do.
    assert draft["fields"]["stress"]["unit"] == "???"
    draft["fields"]["energy"] |= {"unit": "eV", "scheme": "PBE"}
    draft["fields"]["forces"]["scheme"] = "PBE"
    draft["fields"]["gap"]["unit"] = "eV"
    draft["fields"]["stress"] |= {"unit": "kbar", "sign": "compression_positive", "scheme": "PBE"}
    (record,) = Recipe.from_dict(draft, "drafted").open_source().read(str(path))
    assert isinstance(record, CrystalRecord)
    assert (record.id, float(record.labels["energy"].value)) == ("a", -1.5)


@pytest.mark.parametrize(
    ("file", "source", "key"),
    [
        ("forces/mlearn/Mo_test.json.gz", "JsonEntries", "outputs.virial_stress"),
        ("importers/mptrj_layout.json", "JsonEntries", "uncorrected_total_energy"),
        ("importers/extxyz_variant_carbon_100.xyz.gz", "ExtendedXyz", "force"),
        ("matbench/matbench_phonons.json.gz", "MatbenchJson", "last phdos peak"),
        ("composition/matbench_glass.csv", "CsvTable", "formula"),
        ("small/mp_2000.csv.gz", "CsvTable", "cif"),
        ("importers/asedb_oxides.db.gz", "AseDb", "energy"),
        ("importers/lmdb_lips.lmdb.gz", "LmdbEntries", "force"),
        ("importers/cgcnn_sample_regression", "StructureFolder", "1"),
    ],
)
def test_original_files_are_recognised(data_dir: Path, file: str, source: str, key: str) -> None:
    found = survey(str(data_dir / file))
    assert found.source.endswith(f".{source}")
    assert key in found.keys
    assert yaml.safe_load(found.draft)["source"]["_target_"] == found.source


def test_frames_two_levels_deep_are_found(data_dir: Path) -> None:
    found = survey(str(data_dir / "importers/mptrj_layout.json"))
    assert found.arguments == {"levels": 2}
    assert found.keys["force"] == "30×3 of float"  # the first frame of the file


def test_a_file_of_no_known_kind_says_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"\.docx.*known endings.*\.xyz"):
        survey(str(tmp_path / "a.docx"))
    with pytest.raises(SourceError, match="there is no file"):
        survey(str(tmp_path / "b.json"))
    with pytest.raises(SourceError, match="holds no CIF"):
        survey(str(tmp_path))
