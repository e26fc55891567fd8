"""Statistics of whole data sets: by hand on a few records, by independent routes on real ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.measures import Measures, nearest_distances
from epitaxy.data.recipe import load_recipe
from epitaxy.data.statistics import Statistics, describe
from epitaxy.data.symmetry import with_symmetry
from epitaxy.errors import ConfigError
from epitaxy.graph.record import AMOUNT, CrystalRecord, Label
from epitaxy.graph.symbols import reduced_formula


def statistics_of(records: list[CrystalRecord], folder: Path, **options: Any) -> Statistics:
    prepare(records, folder, progress=False)
    found = describe(Dataset.open(folder), progress=False, **options)
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.text()
    return found


def with_labels(record: CrystalRecord, name: str, **labels: Label) -> CrystalRecord:
    return record.replace(id=name, group="", labels=labels)


@pytest.fixture
def records(crystals: Any) -> list[CrystalRecord]:
    """NaCl and copper (4 and 1 atoms) under pressure, and a water molecule without periodicity."""
    forces = np.array([[0, 0, 1.5]] + [[0, 0, -0.5]] * 3)
    water = CrystalRecord(
        "water",
        np.array([8, 1, 1]),
        np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        {"energy": Label(np.array(-14.4), "eV")},
    )
    copper = with_labels(
        crystals.fcc(primitive=False),
        "copper",
        energy=Label(np.array(-16.0), "eV"),
        forces=Label(forces, "eV/Å", per_atom=True),
        stress=Label(np.diag([-0.01, -0.02, -0.03]), "eV/Å^3"),
    )
    return [with_labels(crystals.rocksalt(), "salt"), copper, water]


def test_counts_by_hand(records: list[CrystalRecord], tmp_path: Path) -> None:
    found = statistics_of(records, tmp_path / "data")
    assert (found.records, found.atoms, found.compositions) == (3, 8 + 4 + 3, 0)
    assert found.elements.records == {"H": 1, "O": 1, "Na": 1, "Cl": 1, "Cu": 1}
    assert found.elements.atoms == {"H": 2, "O": 1, "Na": 4, "Cl": 4, "Cu": 4}
    assert list(found.elements.records) == ["H", "O", "Na", "Cl", "Cu"]
    assert len(found.elements.absent["94"]) == 94 - 5
    assert len(found.elements.absent["100"]) == 100 - 5
    assert found.elements.absent["94"][:2] == ("He", "Li")
    assert found.formulas.largest == (("ClNa", 1), ("Cu", 1), ("H2O", 1))
    assert found.systems.largest == (("Cl-Na", 1), ("Cu", 1), ("H-O", 1))
    assert (found.groups.distinct, found.groups.repeated) == (3, 0)
    assert found.periodicity == {"TTT": 2, "FFF": 1}
    assert found.reading == "all records"


def test_labels_by_hand(records: list[CrystalRecord], tmp_path: Path) -> None:
    """Per atom −4 and −4.8 eV; pressure −tr σ/3 = 0.02 eV/Å³ = 3.2044 GPa: compressed."""
    labels = statistics_of(records, tmp_path / "data").labels
    assert list(labels) == ["energy", "energy_per_atom", "forces", "stress", "pressure"]
    assert labels["energy"].missing == 1
    assert labels["energy_per_atom"].unit == "eV/atom"
    assert [item.value for item in labels["energy_per_atom"].lowest] == pytest.approx([-4.8, -4])
    assert labels["pressure"].unit == "GPa"
    assert labels["pressure"].mean == pytest.approx(0.02 * 160.21766208)
    assert labels["pressure"].missing == 2
    forces = labels["forces"]
    assert (forces.count, forces.zeros, forces.missing, forces.over) == (12, 8, 2, "components")
    assert forces.quantiles["1"] == 1.5
    assert forces.std == pytest.approx(np.sqrt((1.5**2 + 3 * 0.5**2) / 12))
    assert (labels["stress"].count, labels["stress"].zeros) == (9, 6)


def test_geometry_by_hand(records: list[CrystalRecord], tmp_path: Path) -> None:
    """Volumes 5.64³/8 and 3.61³/4; distances 5.64/2, 3.61/√2 and 0.96; water has no cell."""
    geometry = statistics_of(records, tmp_path / "data").geometry
    assert [item.value for item in geometry["num_atoms"].lowest] == [3, 4, 8]
    volumes = geometry["volume_per_atom"]
    assert [item.id for item in volumes.lowest] == ["copper", "salt"]
    assert volumes.lowest[0].value == pytest.approx(3.61**3 / 4)
    assert volumes.highest[0].value == pytest.approx(5.64**3 / 8)
    assert volumes.missing == 1
    assert [item.value for item in geometry["shortest_distance"].lowest] == pytest.approx(
        [0.96, 3.61 / np.sqrt(2), 2.82]
    )
    assert geometry["a"].count == geometry["gamma"].count == 2
    assert geometry["gamma"].quantiles["0"] == pytest.approx(90)


def test_neighbours_by_hand(records: list[CrystalRecord], tmp_path: Path) -> None:
    """Within 3 Å: salt 6 (2.82), copper 12 (2.553; next at 3.61), water 2 each."""
    found = {n.radius: n for n in statistics_of(records, tmp_path / "data").neighbors}
    assert list(found) == [3, 4, 5, 6, 8]
    near = found[3.0]
    assert [item.value for item in near.per_atom.lowest] == [2, 6, 12]
    assert near.mean == pytest.approx((8 * 6 + 4 * 12 + 3 * 2) / 15)
    assert (near.isolated, near.empty) == (0, 0)


def test_isolated_atoms_are_counted_at_every_radius(crystals: Any, tmp_path: Path) -> None:
    """A lone atom every 4.5 Å, a pair 2 Å apart, one every 9 Å: 2 of 4 below 4.5 Å, then 1."""
    pair = crystals.record("pair", [6, 6], np.array([[0, 0, 0], [0.1, 0, 0]]), np.eye(3) * 20)
    sparse = crystals.record("sparse", [18], np.zeros((1, 3)), np.eye(3) * 4.5)
    lone = crystals.record("lone", [2], np.zeros((1, 3)), np.eye(3) * 9)
    found = statistics_of([pair, sparse, lone], tmp_path / "data")
    shares = {item.radius: (item.isolated, item.empty) for item in found.neighbors}
    assert shares == {3: (0.5, 2), 4: (0.5, 2), 5: (0.25, 1), 6: (0.25, 1), 8: (0.25, 1)}
    assert found.geometry["shortest_distance"].missing == 1
    assert found.geometry["shortest_distance"].quantiles["1"] == pytest.approx(4.5)


def test_nearest_distances_are_those_of_brute_force(crystals: Any) -> None:
    """Independent route: all images within ±4 cells; one cell is sheared to 170°."""
    chosen = [crystals.triclinic(seed, 5) for seed in range(4)]
    shear = np.array([[1, 0, 0], [3, 1, 0], [0, 0, 1]])
    chosen.append(chosen[0].replace(cell=shear @ chosen[0].cell))
    offsets = np.arange(0, 26, 5)
    positions = np.concatenate([record.positions for record in chosen])
    cells, pbc = np.stack([r.cell for r in chosen]), np.ones((5, 3), dtype=bool)
    found = nearest_distances(positions, cells, pbc, offsets).reshape(5, 5)
    images = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3)
    for line, record in zip(found, [*chosen[:4], chosen[0]], strict=True):
        gaps = record.positions[:, None] - record.positions[None]
        lengths = np.linalg.norm(gaps[..., None, :] + images @ record.cell, axis=-1)
        lengths[lengths < 1e-9] = np.inf
        np.testing.assert_allclose(line, lengths.min(axis=(1, 2)), rtol=1e-9)


def test_a_partly_periodic_slab_has_no_volume(crystals: Any, tmp_path: Path) -> None:
    slab = crystals.fcc(primitive=False).replace(pbc=np.array([True, True, False]))
    found = statistics_of([slab, crystals.rocksalt()], tmp_path / "data")
    assert found.periodicity == {"TTT": 1, "TTF": 1}
    names = ("volume_per_atom", "a", "c", "alpha", "gamma")
    assert [found.geometry[name].missing for name in names] == [1, 0, 1, 1, 0]


def composition(name: str, amounts: dict[int, float], **labels: Label) -> CrystalRecord:
    values = np.array(list(amounts.values()))
    zeros = np.zeros((len(amounts), 3))
    amount = Label(values, "", per_atom=True)
    return CrystalRecord(
        name, np.array(list(amounts)), zeros, np.zeros((3, 3)), np.zeros(3, dtype=bool),
        {AMOUNT: amount, **labels},
    )  # fmt: skip


def test_compositions_have_formulas_but_no_geometry(tmp_path: Path) -> None:
    """Fe0.62Ni0.38 is no FeNi, and amounts are no atoms."""
    steel = composition("steel", {26: 0.62, 28: 0.38}, energy=Label(np.array(-8.0), "eV"))
    glass = [composition(f"g{index}", {14: 1, 8: 2}) for index in range(2)]
    found = statistics_of([steel, *glass], tmp_path / "data")
    assert (found.records, found.compositions, found.atoms) == (3, 3, 0)
    assert found.formulas.largest == (("O2Si", 2), (reduced_formula({26: 0.62, 28: 0.38}), 1))
    assert found.formulas.repeated == 1
    assert found.geometry == {}
    assert found.neighbors == ()
    assert found.periodicity == {}
    assert "energy_per_atom" not in found.labels
    assert found.labels[AMOUNT].count == 6
    assert found.elements.records["Fe"] == 1
    assert found.elements.atoms["Fe"] == 0


def test_compositions_beside_structures(crystals: Any, tmp_path: Path) -> None:
    found = statistics_of([composition("c", {26: 1.5}), crystals.rocksalt()], tmp_path / "data")
    assert (found.compositions, found.atoms) == (1, 8)
    assert found.geometry["num_atoms"].records == 1
    assert found.geometry["volume_per_atom"].missing == 0
    assert found.neighbors[0].mean == 6
    assert found.formulas.distinct == 2


def test_without_labels_and_with_one_record(crystals: Any, tmp_path: Path) -> None:
    found = statistics_of([crystals.rocksalt()], tmp_path / "data")
    assert found.labels == {}
    assert found.categories == {}
    assert found.geometry["volume_per_atom"].std == 0


def test_crystal_systems_are_counted_not_averaged(crystals: Any, tmp_path: Path) -> None:
    """Two cubic crystals, one triclinic, and a cluster that cannot have one."""
    chosen = [crystals.fcc(), crystals.perovskite(), crystals.triclinic(1, 3)]
    labelled = [with_symmetry(record)[0] for record in chosen]
    cluster = crystals.rocksalt().replace(pbc=np.zeros(3, dtype=bool))
    found = statistics_of([*labelled, cluster], tmp_path / "data")
    systems = {name: count for name, count in found.categories["crystal_system"].items() if count}
    assert systems == {"triclinic": 1, "cubic": 2, "unknown": 1}
    assert found.categories["space_group"] == {"1": 1, "221": 1, "225": 1, "unknown": 1}
    assert found.labels == {}


def test_systems_follow_from_space_groups(crystals: Any, tmp_path: Path) -> None:
    groups = [with_labels(crystals.fcc(), f"r{n}", space_group=Label(np.array(float(n)), ""))
              for n in (225, 194, 12)]  # fmt: skip
    found = statistics_of(groups, tmp_path / "data")
    systems = {name: count for name, count in found.categories["crystal_system"].items() if count}
    assert systems == {"monoclinic": 1, "hexagonal": 1, "cubic": 1}


def test_numbers_that_are_no_space_group_are_unknown(crystals: Any, tmp_path: Path) -> None:
    groups = [with_labels(crystals.fcc(), f"r{n}", space_group=Label(np.array(n), ""))
              for n in (0.0, 231.0, -1.0, 2.5, 62.0)]  # fmt: skip
    found = statistics_of(groups, tmp_path / "data").categories
    assert found["space_group"] == {"62": 1, "unknown": 4}
    assert found["crystal_system"]["orthorhombic"] == 1
    assert found["crystal_system"]["unknown"] == 4


def test_a_sample_is_stated_and_depends_on_ids_alone(crystals: Any, tmp_path: Path) -> None:
    chosen = crystals.many(60, seed=8)
    straight = statistics_of(chosen, tmp_path / "a", sample=20)
    turned = statistics_of(chosen[::-1], tmp_path / "b", sample=20)
    assert straight.reading.startswith("20 of 60 records")
    assert (straight.read, straight.labels["forces"].records) == (20, 20)
    assert straight.labels["energy"].count == 60  # sidecars know all of them
    assert straight.geometry["num_atoms"].count == 60
    for name in ("forces", "pressure"):
        assert straight.labels[name].quantiles == turned.labels[name].quantiles
    distances = straight.geometry["shortest_distance"]
    assert distances.highest == turned.geometry["shortest_distance"].highest
    assert straight.geometry["volume_per_atom"].records == 20
    whole = statistics_of(chosen, tmp_path / "c", sample=60)
    assert whole.reading == "all records"
    with pytest.raises(ConfigError, match="sample=0"):
        describe(Dataset.open(tmp_path / "a"), sample=0)


def test_blocks_do_not_show(crystals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = crystals.many(23, seed=4)
    whole = statistics_of(chosen, tmp_path / "data")
    monkeypatch.setattr("epitaxy.data.statistics._BLOCK", 5)
    assert describe(Dataset.open(tmp_path / "data"), progress=False) == whole


@pytest.fixture(scope="module")
def mp_2000(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Any]:
    """The first 400 crystals of the table, prepared and as pandas reads them."""
    import pandas as pd

    table = pd.read_csv(data_dir / "small" / "mp_2000.csv.gz").head(400)
    folder = tmp_path_factory.mktemp("mp")
    table.to_csv(folder / "table.csv", index=False)
    prepare(folder / "table.csv", folder / "data", recipe=load_recipe("mp_csv"), progress=False)
    return Dataset.open(folder / "data"), table


def test_labels_agree_with_pandas_on_real_data(mp_2000: tuple[Dataset, Any]) -> None:
    dataset, table = mp_2000
    labels = describe(dataset, progress=False).labels
    for name in ("band_gap", "formation_energy_per_atom"):
        column, summary = table[name], labels[name]
        assert summary.count == column.count()
        assert summary.zeros == (column == 0).sum()
        assert summary.mean == pytest.approx(column.mean())
        assert summary.quantiles["0.95"] == pytest.approx(column.quantile(0.95))
        assert summary.highest[0].id == table.loc[column.idxmax(), "material_id"]
        assert summary.distinct == column.nunique()
    assert labels["band_gap"].zeros > 150  # metals


@pytest.mark.filterwarnings("ignore")
def test_structures_agree_with_pymatgen_on_real_data(mp_2000: tuple[Dataset, Any]) -> None:
    from pymatgen.core import Structure

    dataset, table = mp_2000
    made = [Structure.from_str(text, fmt="cif") for text in table["cif"].head(100)]
    measures = Measures(dataset.manifest.fields)
    measures.add(range(100), [dataset.record(row) for row in range(100)])
    expected = np.array([[s.volume / len(s), *s.lattice.parameters] for s in made]).T
    names = ("volume_per_atom", "a", "b", "c", "alpha", "beta", "gamma")
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(measures.geometry[name], values, rtol=1e-7)
    for structure, found in zip(made[:20], measures.geometry["shortest_distance"], strict=False):
        _, _, _, lengths = structure.get_neighbor_list(8.0, exclude_self=True)
        assert found == pytest.approx(lengths.min())


def test_counts_agree_with_pandas_on_real_data(mp_2000: tuple[Dataset, Any]) -> None:
    dataset, table = mp_2000
    found = describe(dataset, progress=False)
    assert found.atoms == table["n_sites"].sum()
    assert found.formulas.distinct == table["formula"].nunique()
    assert found.groups.largest[0][1] == table["formula"].value_counts().max()
    symbols = table["formula"].str.findall("[A-Z][a-z]?").map(set)
    counts = Counter(symbol for names in symbols for symbol in names)
    assert found.elements.records == dict(counts)
