"""Recipes: all that come with the project, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.recipe import Recipe, list_recipes, load_recipe
from epitaxy.data.sources.contract import Source
from epitaxy.data.sources.extxyz import ExtendedXyz
from epitaxy.errors import ConfigError, UnitError

SOURCE = {"_target_": "epitaxy.data.sources.extxyz.ExtendedXyz"}
ENERGY = {"key": "energy", "unit": "eV"}


def recipe(**fields: Any) -> Recipe:
    return Recipe.from_dict({"source": SOURCE, "fields": fields}, "mine")


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_of_the_project_works(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.name == name
    assert isinstance(loaded.open_source(), Source)
    assert loaded.description
    assert loaded.licence
    for label, rule in loaded.fields.items():
        assert rule.conversion(label)["label"] == label
    assert Recipe.from_dict(loaded.to_dict()) == loaded


def test_recipes_of_the_project_are_listed() -> None:
    assert {"extxyz", "mattersim", "mp_csv", "phonons", "cgcnn_folder"} <= set(list_recipes())


def test_a_recipe_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "source: {_target_: epitaxy.data.sources.extxyz.ExtendedXyz}\n"
        "fields: {energy: {key: E, unit: Ry}}\n"
    )
    loaded = load_recipe(path)
    assert loaded.name == "mine"
    assert isinstance(loaded.open_source(), ExtendedXyz)
    assert loaded.fields["energy"].scale("energy") == pytest.approx(13.605693122994)


def test_an_unknown_recipe_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'phonon'; did you mean 'phonons'"):
        load_recipe("phonon")
    with pytest.raises(ConfigError, match=r"no recipe file .*mine\.yaml"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(tmp_path / "bad.yaml")


def test_an_unknown_unit_gets_a_hint_before_anything_is_read() -> None:
    with pytest.raises(UnitError, match="field 'energy': unknown unit 'ev'; did you mean 'eV'"):
        recipe(energy={"key": "energy", "unit": "ev"})
    with pytest.raises(UnitError, match=r"field 'energy': .*measure different quantities"):
        recipe(energy={"key": "energy", "unit": "GPa"})
    with pytest.raises(UnitError, match="field 'forces': unknown unit ''"):
        recipe(forces={"key": "forces", "per_atom": True})


def test_other_labels_may_have_any_unit() -> None:
    loaded = recipe(peak={"key": "p", "unit": "1/cm"}, modulus={"key": "G", "unit": "GPa"})
    label = loaded.fields["modulus"].label("modulus", 50.0)
    assert (float(label.value), label.unit) == (50.0, "GPa")
    assert loaded.fields["peak"].label("peak", "1e2").unit == "1/cm"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"source": SOURCE, "feilds": {}}, "unknown key 'feilds'; did you mean 'fields'"),
        ({"fields": {"energy": ENERGY}}, "needs a source"),
        ({"source": {"path": "x"}}, "needs a source"),
        ({"source": SOURCE, "fields": {"energy": {"unit": "eV"}}}, "needs at least a key"),
        ({"source": SOURCE, "fields": {"energy": "E"}}, "needs at least a key"),
        (
            {"source": SOURCE, "fields": {"energy": {**ENERGY, "units": "eV"}}},
            "field 'energy': unknown key 'units'; did you mean 'unit'",
        ),
        (
            {"source": SOURCE, "fields": {"stress": {"key": "s", "unit": "GPa"}}},
            "sign is None; it must say 'tension_positive'",
        ),
        (
            {"source": SOURCE, "fields": {"gap": {"key": "s", "sign": "tension_positive"}}},
            "sign is for stress only",
        ),
        (
            {
                "source": SOURCE,
                "fields": {
                    "stress": {
                        "key": "s",
                        "unit": "GPa",
                        "sign": "tension_positive",
                        "components": "xx,yy",
                    }
                },
            },
            "must order",
        ),
    ],
)
def test_mistakes_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_dict(content, "mine")


def test_wrong_arguments_of_a_source_are_named() -> None:
    wrong = Recipe.from_dict({"source": {**SOURCE, "id_key": "x"}, "fields": {"energy": ENERGY}})
    with pytest.raises(ConfigError, match="takes no argument 'id_key'; did you mean 'id_keys'"):
        wrong.open_source()
    other = Recipe.from_dict({"source": {"_target_": "epitaxy.graph.spec.GraphSpec"}}, "mine")
    with pytest.raises(ConfigError, match="no source of records"):
        other.open_source()


# Counts and values read from the files themselves, by shell and an editor.
@pytest.mark.parametrize(
    ("name", "uri", "count", "groups", "fields"),
    [
        ("mattersim", "small/forces_300.xyz.gz", 300, 300, {"energy", "forces", "stress"}),
        ("phonons", "transfer7/ph_train.json.gz", 1138, 1138, {"last_phonon_peak"}),
        ("cgcnn_folder", "importers/cgcnn_sample_regression", 10, 10, {"target"}),
    ],
)
def test_real_files_become_data_sets(
    data_dir: Path, tmp_path: Path, name: str, uri: str, count: int, groups: int, fields: set[str]
) -> None:
    prepare(data_dir / uri, tmp_path / "out", recipe=load_recipe(name))
    dataset = Dataset.open(tmp_path / "out")
    assert (len(dataset), set(dataset.fields)) == (count, fields)
    assert len(set(dataset.groups)) <= groups
    dataset.verify()


def test_real_phonons_have_their_published_values(data_dir: Path, tmp_path: Path) -> None:
    prepare(
        data_dir / "transfer7/ph_train.json.gz", tmp_path / "out", recipe=load_recipe("phonons")
    )
    dataset = Dataset.open(tmp_path / "out")
    values = dataset.label_table(np.arange(len(dataset))).scalar("last_phonon_peak")
    assert dataset.fields["last_phonon_peak"].unit == "1/cm"
    assert values[0] == pytest.approx(98.58577, abs=1e-5)
    assert values.min() == pytest.approx(59.6, abs=0.1)
    assert values.max() == pytest.approx(3638, abs=1)
    telluride = dataset.record(0)
    assert telluride.numbers.tolist() == [52, 56]  # rocksalt: half a body diagonal apart
    vector = telluride.positions[0] - telluride.positions[1]
    np.testing.assert_allclose(vector, telluride.cell.sum(axis=0) / 2, atol=1e-9)
