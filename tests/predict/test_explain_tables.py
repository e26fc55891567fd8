"""Tables of weights: a row for every edge, atom, angle and feature, with columns that add up."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from epitaxy.encoders.alignn import ALIGNN
from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.encoders.gatgnn import GATGNN
from epitaxy.encoders.roost import Roost
from epitaxy.predict.explain import explain
from epitaxy.predict.explain_tables import write_tables


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_atoms_are_sums_of_their_edges(crystals: Any, tmp_path: Path) -> None:
    records = [crystals.perovskite(), crystals.rocksalt()]
    explained = explain(CGCNN(4, 2, num_basis=4, feature_selector=True).eval(), records)
    written = write_tables(explained, tmp_path)
    assert written == ["edges.csv", "atoms.csv", "features.csv"]
    edges, atoms = read(tmp_path / "edges.csv"), read(tmp_path / "atoms.csv")
    assert len(edges) == sum(len(found.edges) for found in explained.crystals)
    assert len(atoms) == 5 + 8
    assert list(edges[0]) == [
        *("id", "edge", "source", "target", "source_element", "target_element"),
        *("shift_a", "shift_b", "shift_c", "distance_angstrom", "envelope"),
        *("layer_1", "layer_2", "weight"),
    ]
    for row in edges:
        mean = (float(row["layer_1"]) + float(row["layer_2"])) / 2
        assert float(row["weight"]) == pytest.approx(mean, rel=1e-5, abs=1e-9)
    for atom in atoms:
        own = [row for row in edges if row["id"] == atom["id"]]
        into = [float(row["weight"]) for row in own if row["target"] == atom["atom"]]
        out = [float(row["weight"]) for row in own if row["source"] == atom["atom"]]
        assert float(atom["received"]) == pytest.approx(sum(into), rel=1e-5)
        assert float(atom["sent"]) == pytest.approx(sum(out), rel=1e-5)
    elements = [row["element"] for row in atoms]
    assert elements == ["Ba", "Ti", "O", "O", "O"] + ["Na"] * 4 + ["Cl"] * 4
    assert (atoms[1]["x_angstrom"], atoms[1]["z_angstrom"]) == ("2", "2")
    close = [row for row in edges if float(row["distance_angstrom"]) < 2.1]
    assert {row["source_element"] + row["target_element"] for row in close} == {"OTi", "TiO"}
    assert len(read(tmp_path / "features.csv")) == 92


def test_the_pool_is_a_column(crystals: Any, tmp_path: Path) -> None:
    explained = explain(GATGNN(4, 1, num_basis=4).eval(), [crystals.perovskite()])
    assert write_tables(explained, tmp_path) == ["edges.csv", "atoms.csv"]
    atoms = read(tmp_path / "atoms.csv")
    assert sum(float(row["pooled"]) for row in atoms) == pytest.approx(1.0, rel=1e-5)
    assert "envelope" not in read(tmp_path / "edges.csv")[0]


def test_angles_name_the_edges_that_meet(crystals: Any, tmp_path: Path) -> None:
    encoder = ALIGNN(4, 4, 1, 0, num_basis=4, num_angles=4, cutoff=3.0, angle_cutoff=2.5)
    explained = explain(encoder.eval(), [crystals.perovskite()])
    assert "angles.csv" in write_tables(explained, tmp_path)
    edges = {row["edge"]: row for row in read(tmp_path / "edges.csv")}
    angles = read(tmp_path / "angles.csv")
    # Only Ti–O edges (2 Å) are short enough: around Ti 6 × 6, around each of three O 2 × 2.
    assert len(angles) == 36 + 3 * 4
    for row in angles:
        first, second = edges[row["first_edge"]], edges[row["second_edge"]]
        assert first["target"] == second["source"] == row["atom_b"]
        assert (first["source"], second["target"]) == (row["atom_a"], row["atom_c"])
        assert min(abs(float(row["degrees"]) - angle) for angle in (0, 90, 180)) < 0.1
        assert 0 < float(row["weight"]) < 1


def test_compositions_have_amounts_and_no_places(crystals: Any, tmp_path: Path) -> None:
    encoder = Roost(8, 1, features="cgcnn92", gate=(4,), message=(4,), trunk=(8,)).eval()
    write_tables(explain(encoder, [crystals.perovskite()]), tmp_path)
    edges, atoms = read(tmp_path / "edges.csv"), read(tmp_path / "atoms.csv")
    assert [(row["element"], row["amount"]) for row in atoms] == [
        ("O", "3"), ("Ti", "1"), ("Ba", "1"),
    ]  # fmt: skip
    assert list(edges[0])[-2:] == ["layer_1", "weight"]
    assert "distance_angstrom" not in edges[0]
    assert len(edges) == 9
