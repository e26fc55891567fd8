"""One frame of each material, structures only, labelled records only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.filters import RECORD_RULES, lost_records
from epitaxy.data.mixture import Mixture
from epitaxy.data.recipe import load_recipe
from epitaxy.errors import ConfigError
from epitaxy.graph.composition import as_composition
from epitaxy.graph.record import Label

# id, group, atoms, energy in eV or none: totals and energies per atom have another order in b.
FRAMES = (
    ("a0", "a", 1, -3.0),
    ("b0", "b", 1, -2.0),
    ("a1", "a", 1, -5.0),
    ("c0", "c", 1, None),
    ("b1", "b", 2, -3.0),
    ("a2", "a", 1, -4.0),
    ("c1", "c", 1, None),
    ("d0", "d", 1, None),
    ("d1", "d", 1, -1.0),
    ("d2", "d", 1, None),
    ("e0", "e", 1, -1.0),
    ("e1", "e", 1, -1.0),
)


def stored(folder: Path, crystals: Any, frames: Any = FRAMES) -> Dataset:
    records = [
        crystals.triclinic(index, atoms).replace(
            id=name, group=group, labels={} if energy is None else {"energy": Label(energy, "eV")}
        )
        for index, (name, group, atoms, energy) in enumerate(frames)
    ]
    prepare(records, folder, checks="off", progress=False)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def data(crystals: Any, tmp_path_factory: Any) -> Dataset:
    return stored(tmp_path_factory.mktemp("filters") / "data", crystals)


def kept(data: Dataset | Mixture, **rules: Any) -> list[str]:
    lost = lost_records(data, {**RECORD_RULES, **rules})
    assert len(lost) == len(rules)
    return [] if not lost else data.ids[~np.logical_or.reduce(list(lost.values()))].tolist()


def test_by_default_there_is_no_rule(data: Dataset) -> None:
    assert lost_records(data, RECORD_RULES) == {}


def test_the_last_frame_of_each_material(data: Dataset) -> None:
    assert kept(data, frames="last") == ["b1", "a2", "c1", "d2", "e1"]


def test_the_frame_of_lowest_energy_per_atom(data: Dataset) -> None:
    """b: −2 against −3/2 eV/atom; of c none has an energy; the later of two that are equal."""
    assert kept(data, frames="lowest_energy") == ["b0", "a1", "c1", "d1", "e1"]


def test_energies_are_needed(crystals: Any, tmp_path: Path) -> None:
    data = stored(tmp_path / "none", crystals, [("x0", "x", 1, None), ("x1", "x", 1, None)])
    with pytest.raises(ConfigError, match=r"needs the label 'energy', which .*frames=last needs"):
        kept(data, frames="lowest_energy")
    assert kept(data, frames="last") == ["x1"]


def test_every_data_set_of_a_mixture_has_its_own_last_frame(
    data: Dataset, crystals: Any, tmp_path: Path
) -> None:
    other = stored(tmp_path / "other", crystals, [("y0", "a", 1, 0.0), ("y1", "a", 1, 1.0)])
    assert kept(Mixture([other, data]), frames="last") == ["y1", "b1", "a2", "c1", "d2", "e1"]


def test_records_that_are_their_own_material_are_told(
    crystals: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = stored(tmp_path / "own", crystals, [("x0", "", 1, 0.0), ("x1", "", 1, 1.0)])
    with caplog.at_level(logging.WARNING):
        assert kept(data, frames="last") == ["x0", "x1"]
    assert "leaves nothing out" in caplog.text
    assert "every record is a group of its own" in caplog.text


@pytest.mark.parametrize(("energies", "told"), [([-1.0, -2.0], 0), ([-2.0, -1.0], 1)])
def test_frames_that_climb_are_told(
    crystals: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, energies: Any, told: int
) -> None:
    frames = [(f"x{place}", "x", 1, energy) for place, energy in enumerate(energies)]
    data = stored(tmp_path / "climbing", crystals, frames)
    with caplog.at_level(logging.WARNING):
        kept(data, frames="last")
    assert caplog.text.count("in 1 of 1 groups") == told


def test_compositions_are_no_structures(crystals: Any, tmp_path: Path) -> None:
    salt = crystals.rocksalt()
    records = [salt, as_composition(salt).replace(id="formula")]
    prepare(records, tmp_path / "mixed", progress=False)
    data = Dataset.open(tmp_path / "mixed")
    assert kept(data, structures=True) == ["rocksalt"]


def test_records_without_a_label_are_left_out(crystals: Any, tmp_path: Path) -> None:
    labels = {
        "gap": {"gap": Label(1.0, "eV")},
        "forces": {"forces": Label(np.zeros((1, 3)), "eV/Å", per_atom=True)},
        "both": {"gap": Label(0.0, "eV"), "modulus": Label(9.0, "GPa")},
        "none": {},
    }
    records = [crystals.fcc().replace(id=name, labels=found) for name, found in labels.items()]
    prepare(records, tmp_path / "labels", symmetry=True, checks="off", progress=False)
    data = Dataset.open(tmp_path / "labels")
    assert kept(data, labelled="gap") == ["gap", "both"]
    assert kept(data, labelled=["modulus", "forces"]) == ["forces", "both"]
    assert kept(data, labelled="any") == ["gap", "forces", "both"]  # all have a space group
    assert kept(data, labelled=["space_group"]) == list(labels)
    (rule,) = lost_records(data, {**RECORD_RULES, "labelled": ["gap", "forces"]})
    assert rule == "none of the labels gap, forces"
    with pytest.raises(ConfigError, match=r"label 'gup', which .* lacks; did you mean 'gap'"):
        kept(data, labelled=["gup"])


def test_unknown_rules_are_refused(data: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"filter\.frames is 'lowest'; did you mean 'lowest_en"):
        kept(data, frames="lowest")


def test_real_relaxations(data_dir: Path, tmp_path: Path) -> None:
    """ALIGNN-FF lists 9, 25 and 16 frames of three crystals from the end of the relaxation on."""
    source = data_dir / "importers" / "alignn_ff_id_prop.json"
    prepare(source, tmp_path / "ff", recipe=load_recipe("alignn_ff"), checks="off", progress=False)
    data = Dataset.open(tmp_path / "ff")
    assert kept(data, frames="last") == ["15607-8", "15608-33", "15609-49"]
    assert kept(data, frames="lowest_energy") == ["15607-0", "15608-9", "15609-34"]
