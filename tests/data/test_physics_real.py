"""Physics checks on real calculations: silent where they are right, loud where they are not.

Files are read here by a few plain lines, independent of the sources, with the conventions that the
owners of the data document: mlearn and MoNbTaW list the stress in kbar, compression positive.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.physics import Check, PhysicsBook
from epitaxy.data.recipe import load_recipe
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.graph.symbols import SYMBOLS

KBAR = 1 / 1602.1766208
"""1 kbar in eV/Å³."""
SLOTS = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}
LAMMPS = ("xx", "yy", "zz", "xy", "xz", "yz")
VASP = ("xx", "yy", "zz", "xy", "yz", "xz")
Records = list[CrystalRecord]
Reader = Callable[[Path], Records]


def record(name: str, atoms: tuple[Any, Any, Any], labels: Sequence[Any]) -> CrystalRecord:
    symbols, positions, cell = atoms
    energy, forces, stress = labels
    found = {"energy": Label(np.asarray(energy, np.float64), "eV")}
    found["forces"] = Label(np.asarray(forces), "eV/Å", per_atom=True)
    if stress is not None:
        found["stress"] = Label(np.asarray(stress), "eV/Å^3")
    numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols], np.uint8)
    return CrystalRecord(name, numbers, np.array(positions), np.array(cell), labels=found)


def load(path: Path) -> Any:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def vasp_stress(six: Sequence[float], order: Sequence[str]) -> np.ndarray:
    full = np.zeros((3, 3))
    for value, slot in zip(six, order, strict=True):
        i, j = SLOTS[slot]
        full[i, j] = full[j, i] = -value * KBAR
    return full


def pymatgen_atoms(structure: dict[str, Any]) -> tuple[Any, Any, Any]:
    sites = structure["sites"]
    symbols = [site["species"][0]["element"] for site in sites]
    return symbols, [site["xyz"] for site in sites], structure["lattice"]["matrix"]


def jarvis_atoms(atoms: dict[str, Any]) -> tuple[Any, Any, Any]:
    cell = np.array(atoms["lattice_mat"])
    places = np.array(atoms["coords"])
    return atoms["elements"], places if atoms["cartesian"] else places @ cell, cell


def snap(name: str, order: Sequence[str] = VASP) -> Reader:
    """The layout of mlearn and MoNbTaW."""

    def read(data: Path) -> Records:
        found = []
        for index, entry in enumerate(load(data / "forces" / f"{name}.json.gz")):
            out = entry["outputs"]
            stress = vasp_stress(out.get("virial_stress") or out["stress"], order)
            labels = (out["energy"], out["forces"], stress)
            item = record(f"{name}-{index}", pymatgen_atoms(entry["structure"]), labels)
            found.append(item.replace(group=str(entry["group"])))
        return found

    return read


def jarvis(element: str) -> Reader:
    def read(data: Path) -> Records:
        entries = load(data / "forces/mlearn/jarvis_mlearn_Ni_Cu.json.gz")
        return [
            record(
                f"{entry['jid']}/{index}",
                jarvis_atoms(entry["atoms"]),
                (entry["energy"], entry["forces"], vasp_stress(entry["stresses"], LAMMPS)),
            )
            for index, entry in enumerate(entries)
            if entry["jid"].startswith(element)
        ]

    return read


def alignn(data: Path) -> Records:
    return [
        record(
            f"{entry['jid']}-{index}",
            jarvis_atoms(entry["atoms"]),
            (entry["total_energy"], entry["forces"], -np.array(entry["stresses"]) * KBAR),
        )
        for index, entry in enumerate(load(data / "importers/alignn_ff_id_prop.json"))
    ]


def mptrj(data: Path) -> Records:
    def frames() -> Iterator[CrystalRecord]:
        for snapshots in load(data / "importers/mptrj_layout.json").values():
            for name, entry in snapshots.items():
                stress = -np.array(entry["stress"]) * KBAR
                labels = (entry["uncorrected_total_energy"], entry["force"], stress)
                yield record(name, pymatgen_atoms(entry["structure"]), labels)

    return list(frames())


def mattersim(*names: str) -> Reader:
    def read(data: Path) -> Records:
        source = load_recipe("mattersim").open_source()
        found = [r for n in names for r in source.read(str(data / f"forces/mattersim/{n}.xyz.gz"))]
        assert all(isinstance(item, CrystalRecord) for item in found)
        return [item for item in found if isinstance(item, CrystalRecord)]

    return read


METALS = ("Mo", "Nb", "Ta", "W")
ALLOYS = ("MoTa", "MoW", "NbMo", "NbTa", "NbW", "TaW")
SETS: dict[str, Reader] = {
    "heated": mattersim("mpf-TP"),
    "random heated": mattersim("random-TP"),
    "MPtrj": mattersim("mptrj-random-1k"),
    "MPtrj compressed": mattersim("mptrj-highest-stress-1k"),
    "Mo": snap("mlearn/Mo_training", LAMMPS),
    "Mo test": snap("mlearn/Mo_test", LAMMPS),
    "Ni": jarvis("Ni"),
    "Cu": jarvis("Cu"),
    "relaxations": alignn,
    "one relaxation": mptrj,
    **{f"{metal} elastic": snap(f"MoNbTaW/{metal}_Elastic") for metal in METALS},
    **{f"{metal} surfaces": snap(f"MoNbTaW/{metal}_Surface") for metal in METALS},
    **{f"{metal} dynamics": snap(f"MoNbTaW/{metal}_AIMD") for metal in METALS},
    **{f"{alloy} alloys": snap(f"MoNbTaW/{alloy}_SS") for alloy in ALLOYS},
}
QUICK = ("heated", "Mo test", "relaxations", "one relaxation", "Mo elastic", "Ta surfaces")


@pytest.fixture(scope="module")
def sets(data_dir: Path) -> Callable[[str], Records]:
    cache: dict[str, Records] = {}

    def read(name: str) -> Records:
        if name not in cache:
            cache[name] = SETS[name](data_dir)
        return cache[name]

    return read


def checked(records: Records) -> dict[str, Check]:
    book = PhysicsBook()
    for item in records:
        book.add(item)
    return {check.name: check for check in book.checks()}


def names(checks: dict[str, Check], *verdicts: str) -> set[str]:
    return {name for name, check in checks.items() if check.verdict in verdicts}


def change(records: Records, label: str, mistake: Callable[[CrystalRecord, Any], Any]) -> Records:
    changed = []
    for item in records:
        old = item.labels[label]
        value = mistake(item, np.asarray(old.value, np.float64))
        labels = {**item.labels, label: Label(value, old.unit, old.scheme, old.per_atom)}
        changed.append(item.replace(labels=labels))
    return changed


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SETS]
)
def test_right_labels_raise_no_doubt(sets: Callable[[str], Records], name: str) -> None:
    checks = checked(sets(name))
    assert not names(checks, "contradicted", "suspicious")
    assert names(checks, "confirmed")


@pytest.mark.slow
def test_all_frames_of_mattersim_together_raise_no_doubt(data_dir: Path) -> None:
    files = ("mpf-TP", "random-TP", "mptrj-random-1k", "mptrj-highest-stress-1k")
    assert not names(checked(mattersim(*files)(data_dir)), "contradicted", "suspicious")


@pytest.mark.slow
def test_all_frames_of_monbtaw_together_raise_no_doubt(data_dir: Path) -> None:
    files = sorted((data_dir / "forces/MoNbTaW").glob("*.json.gz"))
    readers = [snap(f"MoNbTaW/{path.name.removesuffix('.json.gz')}") for path in files]
    every = [item for read in readers for item in read(data_dir)]
    assert len(every) > 5000
    assert not names(checked(every), "contradicted", "suspicious")


def test_silicon_lists_its_stress_in_two_orders(data_dir: Path) -> None:
    """Strained cells follow VASP's order, frames of dynamics LAMMPS's: found by these checks."""
    frames = snap("mlearn/Si_training")(data_dir)
    checks = checked(frames)
    assert names(checks, "contradicted", "suspicious") == {"stress_order"}
    assert "strained cells" in checks["stress_order"].statement
    assert "displaced atoms" in checks["stress_order"].statement
    elastic = [item for item in frames if item.group == "Elastic"]
    others = [item for item in frames if item.group != "Elastic"]
    assert checked(elastic)["stress_order"].verdict == "confirmed"
    assert checked(others)["stress_order"].verdict == "contradicted"


PLANTED: list[tuple[str, str, Callable[[CrystalRecord, Any], Any]]] = [
    ("stress sign", "stress", lambda r, v: -v),
    ("stress in kbar", "stress", lambda r, v: v / KBAR),
    ("stress in kbar, sign", "stress", lambda r, v: -v / KBAR),
    ("stress in GPa", "stress", lambda r, v: v / KBAR / 10),
    ("stress declared kbar", "stress", lambda r, v: v * KBAR),
    ("stress times 10", "stress", lambda r, v: v * 10),
    ("stress over 10", "stress", lambda r, v: v / 10),
    ("forces sign", "forces", lambda r, v: -v),
    ("forces times 10", "forces", lambda r, v: v * 10),
    ("forces over 10", "forces", lambda r, v: v / 10),
    ("forces in eV/bohr", "forces", lambda r, v: v * 0.529177),
    ("energy per atom", "energy", lambda r, v: v / r.num_atoms),
    ("energy times N", "energy", lambda r, v: v * r.num_atoms),
    ("energy in Ha", "energy", lambda r, v: v / 27.2114),
    ("energy in kcal/mol", "energy", lambda r, v: v * 23.0605),
]
HARD = {
    # Cells are never strained, so the size of the stress is compared with that of the forces.
    ("heated", "stress times 10"): "suspicious",
    ("heated", "stress over 10"): "suspicious",
}


@pytest.mark.parametrize(
    "name",
    ["one relaxation", "relaxations"]
    + [
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("heated", "Mo", "Cu", "Ta dynamics", "MoTa alloys")
    ],
)
def test_mistakes_are_caught(sets: Callable[[str], Records], name: str) -> None:
    for mistake, label, change_label in PLANTED:
        checks = checked(change(sets(name), label, change_label))
        wanted = HARD.get((name, mistake), "contradicted")
        caught = {check for check in names(checks, wanted) if check.startswith(label)}
        assert caught, f"{name}: {mistake}"


@pytest.mark.slow
@pytest.mark.parametrize("metal", METALS)
def test_mistakes_in_elastic_cells_are_caught(sets: Callable[[str], Records], metal: str) -> None:
    """By work alone: forces are zero by symmetry, and energies judged through the stress."""
    for mistake, label, change_label in PLANTED:
        if label == "stress":
            checks = checked(change(sets(f"{metal} elastic"), label, change_label))
            assert "stress_work" in names(checks, "contradicted"), mistake


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Mo", "Ni", "heated", "MoW alloys", "W dynamics", "Nb elastic"])
def test_swapped_shears_are_caught(sets: Callable[[str], Records], name: str) -> None:
    slots = ((1, 2), (0, 2), (0, 1))
    for order in ((1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)):

        def swap(_: CrystalRecord, v: Any, order: tuple[int, ...] = order) -> Any:
            new = np.diag(np.diag(v))
            for slot, source in zip(slots, order, strict=True):
                new[slot] = new[slot[::-1]] = v[slots[source]]
            return new

        checks = checked(change(sets(name), "stress", swap))
        assert "stress_order" in names(checks, "contradicted"), order


def test_corrected_among_raw_energies_are_caught(data_dir: Path) -> None:
    """Every other frame of a relaxation with the corrections that MPtrj keeps beside."""
    frames = mptrj(data_dir)
    corrected = {
        name: entry["corrected_total_energy"]
        for snapshots in load(data_dir / "importers/mptrj_layout.json").values()
        for name, entry in snapshots.items()
    }
    mixed = [
        change([item], "energy", lambda r, v: np.float64(corrected[r.id]))[0] if index % 2 else item
        for index, item in enumerate(frames)
    ]
    assert "energy_scheme" in names(checked(mixed), "contradicted")
    # Corrections of one composition are one constant: energies of one scheme, either way.
    every = change(frames, "energy", lambda r, v: np.float64(corrected[r.id]))
    assert not names(checked(every), "contradicted", "suspicious")


@pytest.mark.slow
def test_single_frames_of_many_materials(sets: Callable[[str], Records]) -> None:
    """No two frames of one material: signs and sizes show in the statistics only."""
    for mistake, label, change_label in PLANTED:
        if mistake != "forces in eV/bohr":  # a factor of two is lost in them
            checks = checked(change(sets("MPtrj"), label, change_label))
            assert names(checks, "contradicted", "suspicious"), mistake
