"""Sidecar arrays: strings, compositions and the interpolation of neighbour counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data.sidecars import (
    NEIGHBOR_RADII,
    SidecarWriter,
    composition,
    interpolate_neighbors,
    neighbor_counts,
    texts,
)
from epitaxy.graph.record import CrystalRecord, Label

DIGEST = "00ff" * 8


def write(records: list[CrystalRecord], folder: Path) -> None:
    writer = SidecarWriter()
    for record, counts in zip(records, neighbor_counts(records), strict=True):
        writer.add(record, DIGEST, counts)
    writer.write(folder)


def load(folder: Path, name: str) -> np.ndarray:
    array: np.ndarray = np.load(folder / f"{name}.npy", allow_pickle=False)
    return array


def test_known_crystals(crystals: Any, tmp_path: Path) -> None:
    """Fcc copper: 12 neighbours at 2.55 Å, 6 at 3.61, 24 at 4.42, 12 at 5.11, 24 at 5.71."""
    gap = Label(np.array(5.0), "eV")
    copper = crystals.fcc().replace(id="Kupfer-α", group="Cu")
    folder = tmp_path / "sidecars"
    write([copper, crystals.rocksalt().replace(labels={"gap": gap})], folder)
    assert texts(load(folder, "ids"), load(folder, "ids_offsets")).tolist() == [
        "Kupfer-α",
        "rocksalt",
    ]
    assert texts(load(folder, "groups"), load(folder, "groups_offsets")).tolist() == [
        "Cu",
        "rocksalt",
    ]
    assert load(folder, "neighbors")[0].tolist()[:4] == [12, 18, 42, 78]
    assert load(folder, "neighbors")[1].tolist()[0] == 8 * 6  # 2.82 Å, eight atoms
    assert tuple(load(folder, "neighbor_radii")) == NEIGHBOR_RADII
    assert load(folder, "num_atoms").tolist() == [1, 8]
    assert load(folder, "digests").tobytes().hex() == DIGEST * 2
    np.testing.assert_array_equal(load(folder, "scalar.gap"), [np.nan, 5.0])
    table = composition(lambda name: load(folder, name), np.array([1, 0, 1]))
    assert table.shape == (3, 119)
    assert table[0, 11] == table[0, 17] == 4
    assert table[1, 29] == 1
    assert table.sum() == 17


def test_statistics_are_of_the_components(crystals: Any, tmp_path: Path) -> None:
    """Root mean square of (3, -4) over two atoms and three axes: √(25/6)."""
    forces = np.zeros((8, 3))
    forces[0, 0], forces[3, 2] = 3, -4
    stress = np.diag([1.0, 2.0, -2.0])
    labels = {
        "forces": Label(forces, "eV/Å", per_atom=True),
        "stress": Label(stress, "eV/Å^3"),
        "magmom": Label(np.full(8, -2.0), "μB", per_atom=True),
    }
    write([crystals.rocksalt().replace(labels=labels), crystals.fcc()], tmp_path / "s")

    def column(name: str) -> list[float]:
        return list(load(tmp_path / "s", name))

    np.testing.assert_allclose(column("largest.forces"), [4, np.nan])
    np.testing.assert_allclose(column("root_mean_square.forces"), [np.sqrt(25 / 24), np.nan])
    np.testing.assert_allclose(column("root_mean_square.stress"), [1.0, np.nan])
    np.testing.assert_allclose(column("largest.magmom"), [2.0, np.nan])


@pytest.mark.parametrize(
    ("cutoff", "expected"),
    [(2.0, 8), (4.0, 64), (3.0, 8 + (27 - 8) / (64 - 8) * 56), (8.0, 512), (1.0, 1)],
)
def test_interpolation_is_linear_in_volume(cutoff: float, expected: float) -> None:
    """Counts that equal the cube of the radius stay so at any radius."""
    radii, counts = np.array([2.0, 4.0]), np.array([[8, 64]])
    assert interpolate_neighbors(radii, counts, cutoff).tolist() == [round(expected)]
