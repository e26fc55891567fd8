"""``epitaxy data``: every action from the command line and from Python, on one small data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.app.data_help import ACTIONS
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.splits import make_split
from epitaxy.errors import ConfigError
from epitaxy.graph.record import Label


@pytest.fixture(autouse=True)
def home(epitaxy_home: Path) -> Path:
    return epitaxy_home


@pytest.fixture
def data(crystals: Any, tmp_path: Path) -> Path:
    """Forty records, two to a group, with a scalar label ``gap`` from 0 to 3.9."""
    records = [
        record.replace(labels={**record.labels, "gap": Label(np.array(index / 10), "eV", "PBE")})
        for index, record in enumerate(crystals.many(40))
    ]
    prepare(records, tmp_path / "data", checks="off", progress=False)
    return tmp_path / "data"


def say(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["data", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_teaches(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = say(capsys, action, "--help")
    assert ACTIONS[action] in text
    assert text.count(f"epitaxy data {action} ") >= 1
    assert "options and their defaults" in text


def test_every_example_and_option_is_real() -> None:
    from epitaxy.app import data_help
    from epitaxy.app.compose import compose
    from epitaxy.app.help import leaves

    for action, examples in data_help._EXAMPLES.items():
        options = {path for path, _ in leaves(compose(f"data/{action}").config)}
        unexplained = {
            o for o in options if not o.startswith("registry") and o not in data_help._TEXT
        }
        assert not unexplained
        for example in examples:
            _, verb, name, *words = example.split()
            assert (verb, name) == ("data", action)
            compose(f"data/{action}", words).require()


def test_a_wrong_action_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "splitt"]) == 2
    assert "did you mean 'split'" in capsys.readouterr().err
    assert main(["data"]) == 2
    with pytest.raises(ConfigError, match="did you mean 'merge'"):
        api.data("merg")


def test_inspect_shows_what_is_prepared(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = say(capsys, "inspect", f"data={data}")
    assert "40 records" in text
    assert "gap" in text
    assert "PBE" in text
    assert main(["data", "inspect"]) == 2
    assert "either source=FILE or data=FOLDER" in capsys.readouterr().err


def test_inspect_drafts_a_recipe_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "a.csv", tmp_path / "mine.yaml"
    source.write_text("formula,gap\nNaCl,5.0\n")
    assert "composition: formula" in say(capsys, "inspect", f"source={source}", f"out={out}")
    assert "gap: {key: gap, unit: '???'}" in out.read_text()
    assert main(["data", "inspect", f"source={source}", f"out={out}"]) == 2


def test_verify_finds_one_flipped_byte(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "40 records in 1 shards are intact" in say(capsys, "verify", f"data={data}")
    (shard,) = data.glob("shard-*.lmdb")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["data", "verify", f"data={data}"]) == 2
    assert "checksum does not match" in capsys.readouterr().err


def test_splits_are_stored_listed_and_used(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no stored split" in say(capsys, "split", f"data={data}")
    words = ["split", f"data={data}", "name=mine", "by=group", "fractions=[0.5,0.25,0.25]"]
    text = say(capsys, *words)
    assert text.splitlines()[1].split() == ["mine", "20", "10", "10"]
    dataset = Dataset.open(data)
    rows = make_split(dataset, name="mine").rows
    groups = [set(dataset.groups[part]) for part in rows.values()]
    assert not groups[0] & groups[1]
    assert main(["data", *words]) == 2
    assert "has a split 'mine' already" in capsys.readouterr().err
    say(capsys, *words, "overwrite=true")


def test_nested_subsets_leave_the_test_records_alone(data: Path) -> None:
    api.data("split", data=data, name="base", by="group")
    paths = api.data(
        "split", data=data, name="curve", base="base", subsets=[10, 20], label="gap", trials=2
    )
    assert [path.stem for path in paths] == [
        "curve-trial1-10", "curve-trial1-20", "curve-trial2-10", "curve-trial2-20",
    ]  # fmt: skip
    dataset = Dataset.open(data)
    test = set(make_split(dataset, name="base").rows["test"].tolist())
    small, large = (make_split(dataset, name=f"curve-trial1-{n}").rows for n in (10, 20))
    assert (len(small["train"]), len(small["val"])) == (9, 1)
    assert set(small["train"]) <= set(large["train"])
    assert not test & (set(large["train"]) | set(large["val"]))
    with pytest.raises(ConfigError, match="label="):
        api.data("split", data=data, name="other", subsets=[10])


def test_overlap_finds_shared_crystals_and_excludes_their_groups(
    crystals: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three crystals of the other set are turned and shifted copies; a group has two records."""
    turned = []
    for index in (4, 5, 10):
        record = crystals.many(40)[index]
        turn = np.linalg.qr(np.random.default_rng(index).normal(size=(3, 3)))[0]
        moved = record.positions + np.array([0.3, 1.7, -2.0])
        copy = record.replace(id=f"copy-{index}", group=f"copy-{index}", labels={})
        turned.append(copy.replace(positions=moved @ turn, cell=record.cell @ turn))
    prepare(turned, tmp_path / "other", checks="off", progress=False)
    words = [f"data={data}", f"other={tmp_path / 'other'}"]
    files = [f"exclude={tmp_path / 'lost.txt'}", f"out={tmp_path / 'report.json'}"]
    text = say(capsys, "overlap", *words, *files)
    assert "4 ids to exclude" in text
    lost = (tmp_path / "lost.txt").read_text().split()
    assert lost == ["c0004", "c0005", "c0010", "c0011"]  # the groups of 4 and 5, and of 10
    assert json.loads((tmp_path / "report.json").read_text())["level"] == "same"


def test_overlap_of_a_data_set_with_itself(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "train" in say(capsys, "overlap", f"data={data}")


def test_merge_joins_what_is_the_same(crystals: Any, data: Path, tmp_path: Path) -> None:
    record = crystals.many(40)[7]
    more = record.replace(id="other-7", labels={"modulus": Label(np.array(50.0), "GPa", "PBE")})
    prepare([more], tmp_path / "more", checks="off", progress=False)
    api.data("merge", data=[data, tmp_path / "more"], out=tmp_path / "merged")
    merged = Dataset.open(tmp_path / "merged")
    assert len(merged) == 40
    (row,) = merged.rows_of(["c0007"])
    labels = merged.record(int(row)).labels
    assert float(labels["modulus"].value) == 50.0
    assert float(labels["gap"].value) == pytest.approx(0.7)


def test_convert_and_export_a_split(data: Path, tmp_path: Path) -> None:
    api.data("split", data=data, name="mine", fractions=[0.5, 0.25, 0.25])
    manifest = api.data("convert", data=data, out=tmp_path / "zarr")
    assert manifest.data_digest == Dataset.open(data).data_digest
    assert make_split(Dataset.open(tmp_path / "zarr"), name="mine").rows["val"].size == 10
    out = api.data("export", data=data, out=tmp_path / "val.xyz", split="mine:val")
    assert sum(line.strip().isdecimal() for line in out.read_text().splitlines()) == 10
    with pytest.raises(ConfigError, match="did you mean 'extxyz'"):
        api.data("export", data=data, out=tmp_path / "x", format="xyz")
    with pytest.raises(ConfigError, match="split=mine:tset"):
        api.data("export", data=data, out=tmp_path / "x", split="mine:tset")


def test_derived_labels_are_added_afterwards(crystals: Any, tmp_path: Path) -> None:
    pytest.importorskip("matminer", reason="matminer is in the dev extra")
    prepare([crystals.labelled(crystals.fcc())], tmp_path / "plain", checks="off", progress=False)
    given = {"data": tmp_path / "plain", "out": tmp_path / "told"}
    manifest = api.data("convert", **given, symmetry=True, fingerprint="magpie", format="lmdb")
    added = {field.name for field in manifest.fields} - {"energy", "forces", "stress"}
    assert added == {"space_group", "crystal_system", "magpie"}


def test_a_split_by_structure_keeps_copies_together(crystals: Any, tmp_path: Path) -> None:
    """Each crystal comes twice, the second time moved: by record they would part, here never."""
    records = []
    for index, record in enumerate(crystals.many(30)):
        moved = record.positions + np.array([0.4, -1.1, 0.9])
        records += [
            record.replace(group=f"a{index}"),
            record.replace(id=f"m{index}", group=f"b{index}", positions=moved),
        ]
    prepare(records, tmp_path / "twins", checks="off", progress=False)
    api.data(
        "split", data=tmp_path / "twins", name="apart", by="structure", fractions=[0.5, 0.2, 0.3]
    )
    dataset = Dataset.open(tmp_path / "twins")
    part_of = {
        str(dataset.ids[row]): part
        for part, rows in make_split(dataset, name="apart").rows.items()
        for row in rows.tolist()
    }
    assert len(set(part_of.values())) == 3
    assert all(part_of[f"c{index:04d}"] == part_of[f"m{index}"] for index in range(30))


SALT = """2
Lattice="{0} 0 0 0 {0} 0 0 0 {0}" Properties=species:S:1:pos:R:3 id=s{0} energy=-{0} pbc="T T T"
Na 0 0 0
Cl 2 2 2
"""
SALT_RECIPE = """
source: {_target_: epitaxy.data.sources.extxyz.ExtendedXyz, id_keys: [id]}
fields: {energy: {key: energy, unit: eV}}
"""


def test_a_data_set_grows_and_travels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepare, split, append, copy to a URI, verify there; an older version stays."""
    recipe, out = tmp_path / "salt.yaml", tmp_path / "salt"
    recipe.write_text(SALT_RECIPE)
    for name, sides in (("a", range(5, 15)), ("b", range(15, 20))):
        (tmp_path / f"{name}.xyz").write_text("".join(SALT.format(side) for side in sides))
    given = {"recipe": str(recipe), "checks": "off"}
    api.prepare(**given, source=str(tmp_path / "a.xyz"), out=str(out), card=False)
    say(capsys, "split", f"data={out}", "name=mine")
    text = say(
        capsys, "append", f"data={out}", f"source={tmp_path / 'b.xyz'}", f"recipe={recipe}",
        "checks=off",
    )  # fmt: skip
    assert "5 records added: version 2 has 15" in text
    assert "the split 'mine' leaves 5 records out" in text
    assert "version 2" in say(capsys, "inspect", f"data={out}")
    uri = f"memory://cli/{tmp_path.name}"
    assert "15 records copied" in say(capsys, "copy", f"data={out}", f"out={uri}")
    assert "15 records in 2 shards are intact" in say(capsys, "verify", f"data={uri}", "workers=1")
    assert len(Dataset.open(uri, version=1)) == 10
    assert main(["data", "copy", f"data={out}", f"out={uri}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
