"""Fixtures for every test: crystals, real data, a private home and one small Ray cluster."""

from __future__ import annotations

import os

# Before anything imports torch, numba or Ray: two cores, no telemetry, no waiting for slow polls.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # never generate a token in the user's home
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.graph.record import CrystalRecord, Label

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets: ``EPITAXY_DATA``."""
    return _external("EPITAXY_DATA", "data", "real data sets")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Weights and vectors of published models: ``EPITAXY_REFERENCE``."""
    return _external("EPITAXY_REFERENCE", "reference", "reference weights and vectors")


@pytest.fixture(scope="session")
def k8s_schemas_dir() -> Path:
    """CustomResourceDefinitions of the Ray operator: ``EPITAXY_K8S_SCHEMAS``."""
    return _external("EPITAXY_K8S_SCHEMAS", "k8s-schemas", "schemas of the Ray operator")


def _external(variable: str, name: str, content: str) -> Path:
    """Returns a folder outside the checkout; skips without it, but never silently in CI.

    ``<variable>=none`` says that the machine has no such folder: then CI skips as well.
    """
    setting = os.environ.get(variable, "")
    if setting == "none":
        pytest.skip(f"{variable}=none: this machine has no {content}")
    folder = Path(setting) if setting else REPOSITORY.parent / "shared" / name
    if folder.is_dir():
        return folder.resolve()
    reason = f"no {content} at {folder}; set {variable} to their folder, or to 'none'"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def epitaxy_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for runs, registry and caches, seen by this test and what it starts."""
    home = tmp_path / "epitaxy-home"
    home.mkdir()
    monkeypatch.setenv("EPITAXY_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One Ray of four logical CPUs for the whole session; gives its context."""
    import ray

    yield ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    ray.shutdown()


class Crystals:
    """Makes small records with known geometry. Lengths are in Å."""

    def fcc(
        self, number: int = 29, lattice: float = 3.61, *, primitive: bool = True
    ) -> CrystalRecord:
        """Copper by default: 12 neighbours at ``lattice``/√2."""
        corner = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        if primitive:
            return self.record("fcc", [number], np.zeros((1, 3)), corner * lattice)
        fractions = np.concatenate([np.zeros((1, 3)), corner])
        return self.record("fcc-cubic", [number] * 4, fractions, np.eye(3) * lattice)

    def rocksalt(self, numbers: tuple[int, int] = (11, 17), lattice: float = 5.64) -> CrystalRecord:
        """Sodium chloride by default: six unlike neighbours at ``lattice``/2; 8 atoms."""
        corner = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        fractions = np.concatenate([corner, corner + np.array([0.5, 0, 0])]) % 1
        repeated = [numbers[0]] * 4 + [numbers[1]] * 4
        return self.record("rocksalt", repeated, fractions, np.eye(3) * lattice)

    def perovskite(
        self, numbers: tuple[int, int, int] = (56, 22, 8), lattice: float = 4.0
    ) -> CrystalRecord:
        """Cubic BaTiO3 by default: A at the corner, B in the centre, three X on the faces."""
        a, b, x = numbers
        fractions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        return self.record("perovskite", [a, b, x, x, x], np.array(fractions), np.eye(3) * lattice)

    def triclinic(
        self,
        seed: int = 0,
        num_atoms: int = 4,
        numbers: Sequence[int] = (3, 8, 13, 26, 79),
        volume_per_atom: float = 14.0,
    ) -> CrystalRecord:
        """A random, skewed cell without symmetry; no two atoms closer than about 1.2 Å."""
        rng = np.random.default_rng(seed)
        cell = np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))
        cell *= (num_atoms * volume_per_atom / abs(np.linalg.det(cell))) ** (1 / 3)
        fractions = _apart(rng, cell, num_atoms, 1.2)
        return self.record(f"triclinic-{seed}", rng.choice(numbers, num_atoms), fractions, cell)

    def record(
        self,
        name: str,
        numbers: Any,
        fractions: np.ndarray,
        cell: np.ndarray,
        labels: Mapping[str, Label] | None = None,
    ) -> CrystalRecord:
        """A periodic record from fractional coordinates."""
        return CrystalRecord(
            id=name,
            numbers=np.asarray(numbers, dtype=np.uint8),
            positions=np.asarray(fractions, dtype=np.float64) @ cell,
            cell=cell,
            labels=labels or {},
        )

    def labelled(self, record: CrystalRecord, seed: int = 0, scheme: str = "") -> CrystalRecord:
        """``record`` with random energy (eV), forces (eV/Å) and symmetric stress (eV/Å³)."""
        rng = np.random.default_rng(seed)
        stress = rng.normal(size=(3, 3)) * 0.05
        forces = rng.normal(size=(record.num_atoms, 3)) * 0.3
        labels = {
            "energy": Label(rng.normal() - 3.0 * record.num_atoms, "eV", scheme),
            "forces": Label(forces, "eV/Å", scheme, per_atom=True),
            "stress": Label((stress + stress.T) / 2, "eV/Å^3", scheme),
        }
        return record.replace(labels={**record.labels, **labels})

    def many(self, count: int, *, seed: int = 0, max_atoms: int = 6) -> list[CrystalRecord]:
        """``count`` labelled triclinic records, ids ``c0000``…, two to a group."""
        rng = np.random.default_rng(seed)
        records = []
        for index in range(count):
            atoms = int(rng.integers(1, max_atoms + 1))
            record = self.labelled(self.triclinic(seed * 100_003 + index, atoms), index)
            records.append(record.replace(id=f"c{index:04d}", group=f"g{index // 2:04d}"))
        return records


def _apart(rng: np.random.Generator, cell: np.ndarray, count: int, distance: float) -> np.ndarray:
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3)
    chosen: list[np.ndarray] = []
    while len(chosen) < count:
        candidate = rng.uniform(size=3)
        vectors = [(candidate - other + images) @ cell for other in chosen]
        if all(np.linalg.norm(v, axis=1).min() > distance for v in vectors):
            chosen.append(candidate)
    return np.array(chosen)


@pytest.fixture(scope="session")
def crystals() -> Crystals:
    """The maker of small records."""
    return Crystals()
