"""Alloys under the effective medium theory (EMT) potential, generated on the spot with ASE.

Two sources share one universe of binary and ternary alloys of Al, Ni, Cu, Pd, Ag, Pt and Au:
``EmtTrajectories`` (energies, forces and stresses along relaxations and short molecular
dynamics of distorted, strained cells) and ``EmtBulkModulus`` (cells at zero pressure with the bulk
modulus of their equation of state). A reduced formula belongs to one of them, by a hash of its
name, so no material of one source ever occurs in the other.

Cells are ordered alloys or disordered ones on close-packed and open lattices, some with a vacancy:
among relaxed close-packed alloys the composition alone nearly fixes the bulk modulus, so that a
target made of those says little about what a network knows of structure.

Source of the potential: K. W. Jacobsen, P. Stoltze, J. K. Nørskov, Surf. Sci. 366, 394 (1996),
as implemented by ``ase.calculators.emt`` (energy relative to the pure fcc metals).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import reference_states
from ase.filters import UnitCellFilter
from ase.formula import Formula
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from numpy.polynomial import Polynomial
from scipy.optimize import brentq

from epitaxy.data.sources.contract import BadRecord
from epitaxy.errors import RecordError, SourceError, closest
from epitaxy.graph.record import CrystalRecord, Label
from epitaxy.units import ENERGY, FORCE, GPA_PER_EV_A3, STRESS

ELEMENTS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
SCHEME = "EMT"
Role = Literal["trajectories", "bulk_modulus"]
SourceType = TypeVar("SourceType", "EmtTrajectories", "EmtBulkModulus")

ORDERED = ("L1_0", "B2", "L1_2", "D0_3", "D0_19", "L2_1")
RANDOM_CELLS = (
    ("fcc", (2, 1, 1)),
    ("fcc", (2, 2, 1)),
    ("bcc", (2, 2, 1)),
    ("hcp", (2, 2, 1)),
    ("hcp", (3, 2, 1)),
    ("sc", (2, 2, 2)),
)
"""Lattice and repeats of its conventional cell (fcc 4, bcc 2, hcp 2, sc 1): 8 to 16 atoms."""
ORDERED_SHARE = 0.2
VACANCY_SHARE = 0.3
"""Of the disordered cells: those that lose one atom, before species are drawn."""
TIME_STEP_FS = 5.0
DYNAMICS_STEPS, RELAXATION_STEPS = 3, 2
"""Steps between two frames."""


@dataclass(frozen=True)
class Alloy:
    """One material of the universe: its reduced ``formula`` and an undistorted cell."""

    formula: str
    prototype: str
    atoms: Atoms

    @property
    def name(self) -> str:
        """Formula and prototype, e.g. ``AuCu3-L1_2``."""
        return f"{self.formula}-{self.prototype}"


def draw_alloys(count: int, seed: int, role: Role) -> Iterator[Alloy]:
    """Yields ``count`` alloys of ``role`` with different reduced formulas, the same for one seed.

    Raises:
        SourceError: If the universe holds fewer formulas than asked for.
    """
    rng = np.random.default_rng([seed, 0 if role == "trajectories" else 1])
    seen: set[str] = set()
    for _ in range(50 * count + 1000):
        if len(seen) == count:
            return
        alloy = _draw_alloy(rng)
        if role_of(alloy.formula) == role and alloy.formula not in seen:
            seen.add(alloy.formula)
            yield alloy
    raise SourceError(f"emt: only {len(seen)} of {count} alloys could be drawn; ask for fewer")


def role_of(formula: str) -> Role:
    """Returns the source that may hold ``formula``, from a hash of its name."""
    odd = hashlib.blake2b(formula.encode(), digest_size=1).digest()[0] & 1
    return "bulk_modulus" if odd else "trajectories"


def _draw_alloy(rng: np.random.Generator) -> Alloy:
    if rng.random() < ORDERED_SHARE:
        prototype = ORDERED[rng.integers(len(ORDERED))]
        atoms = ordered_cell(prototype, [str(s) for s in rng.permutation(ELEMENTS)[:3]])
    else:
        lattice, repeats = RANDOM_CELLS[rng.integers(len(RANDOM_CELLS))]
        vacancy = bool(rng.random() < VACANCY_SHARE)
        prototype = f"{lattice}-vacancy" if vacancy else lattice
        atoms = _random_cell(lattice, repeats, vacancy, rng)
    return Alloy(reduced_formula(atoms), prototype, atoms)


def reduced_formula(atoms: Atoms) -> str:
    """Returns the reduced formula in alphabetical order, e.g. ``AuCu3``."""
    return str(Formula(atoms.get_chemical_formula()).reduce()[0].format("metal"))


def ordered_cell(prototype: str, symbols: list[str]) -> Atoms:
    """Returns an ordered alloy of up to three elements at the mean atomic volume (Zen's law)."""
    a, b, c = symbols
    match prototype:
        case "L1_0":
            atoms = _lattice("fcc", (1, 1, 1), [a, b, b, a])
        case "L1_2":
            atoms = _lattice("fcc", (1, 1, 1), [b, a, a, a])
        case "B2":
            atoms = _lattice("bcc", (1, 1, 1), [a, b])
        case "D0_3" | "L2_1":
            # bcc supercell with the primitive fcc cell: sites at 0, ¼, ½ and ¾ of its diagonal.
            cell = bulk("Cu", "fcc", a=1.0).cell.array
            sites = np.arange(4)[:, None] / 4 * np.ones(3)
            third = c if prototype == "L2_1" else a
            atoms = Atoms([b, a, third, a], cell=cell, scaled_positions=sites, pbc=True)
        case "D0_19":
            atoms = _lattice("hcp", (2, 2, 1), [a] * 8)
            # One minority atom per close-packed layer, none of them neighbours.
            atoms.symbols[[0, _farthest(atoms, 0)]] = b
        case _:
            raise SourceError(
                f"emt: unknown prototype {prototype!r}; {closest(prototype, ORDERED)}"
            )
    return _at_mean_volume(atoms)


def _random_cell(
    lattice: str, repeats: tuple[int, int, int], vacancy: bool, rng: np.random.Generator
) -> Atoms:
    atoms = _lattice(lattice, repeats, None)
    if vacancy:
        del atoms[0]
    species = rng.permutation(ELEMENTS)[: rng.integers(2, 4)]
    # Every chosen element occurs; the rest is drawn with random weights, so all stoichiometries
    # are about equally likely instead of the equimolar ones.
    weights = rng.dirichlet(np.ones(len(species)))
    rest = rng.choice(species, size=len(atoms) - len(species), p=weights)
    atoms.symbols[:] = rng.permutation(np.concatenate([species, rest]))
    return _at_mean_volume(atoms)


def _lattice(lattice: str, repeats: tuple[int, int, int], symbols: list[str] | None) -> Atoms:
    atoms = bulk("Cu", lattice, a=1.0, **({"cubic": True} if lattice in ("fcc", "bcc") else {}))
    atoms = atoms.repeat(repeats)
    if symbols is not None:
        atoms.symbols[:] = symbols
    return atoms


def _farthest(atoms: Atoms, index: int) -> int:
    return int(np.argmax(atoms.get_distances(index, range(len(atoms)), mic=True)))


def _at_mean_volume(atoms: Atoms) -> Atoms:
    volume = sum(reference_states[z]["a"] ** 3 / 4 for z in atoms.numbers)
    scale = (volume / atoms.get_volume()) ** (1 / 3)
    atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    return atoms


def _with_query(source: SourceType, uri: str) -> SourceType:
    """Returns ``source`` with the whole numbers of a query such as ``emt://?alloys=10``."""
    changes = {}
    for key, text in parse_qsl(urlsplit(uri).query):
        if not hasattr(source, key):
            raise SourceError(f"{uri}: unknown argument {key!r}; {closest(key, vars(source))}")
        if not text.isdecimal():
            raise SourceError(f"{uri}: {key} must be a whole number, got {text!r}")
        changes[key] = int(text)
    return replace(source, **changes)


@dataclass(frozen=True)
class EmtTrajectories:
    """Non-equilibrium frames: one relaxation and one run of dynamics per alloy.

    Both start from a cell with random strain (±5 % in length, 2 % per component) and displaced
    atoms (0.02 to 0.12 Å). The relaxation (FIRE, cell and positions) is sampled every second
    step, the dynamics (velocity Verlet, 5 fs, 300 to 1500 K at the start) every third. Labels:
    ``energy`` (eV), ``forces`` (eV/Å) and ``stress`` (eV/Å³, tension positive, ASE's own sign).

    Attributes:
        alloys: Number of alloys; each is one group.
        frames: Frames per alloy, half from each run.
        seed: Of every random choice.
    """

    alloys: int = 160
    frames: int = 16
    seed: int = 0

    def read(self, uri: str = "emt://") -> Iterator[CrystalRecord]:
        """Yields the frames; a query such as ``emt://?alloys=10&seed=1`` overrides arguments."""
        source = _with_query(self, uri)
        for index, alloy in enumerate(draw_alloys(source.alloys, source.seed, "trajectories")):
            rng = np.random.default_rng([source.seed, 2, index])
            half = source.frames // 2
            yield from _relaxation(alloy, source.frames - half, rng)
            yield from _dynamics(alloy, half, rng)


def distort(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Returns a strained copy with displaced atoms, driven by ``rng``."""
    atoms = atoms.copy()
    strain = rng.normal(0, 0.02, (3, 3))
    strain = np.eye(3) * (1 + rng.uniform(-0.05, 0.05)) + (strain + strain.T) / 2
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, rng.uniform(0.02, 0.12), atoms.positions.shape)
    atoms.calc = EMT()
    return atoms


def _relaxation(alloy: Alloy, frames: int, rng: np.random.Generator) -> Iterator[CrystalRecord]:
    atoms = distort(alloy.atoms, rng)
    optimizer = FIRE(UnitCellFilter(atoms), logfile=None)
    for frame in range(frames):
        yield _frame(alloy, "relax", frame, atoms)
        if optimizer.run(fmax=0.01, steps=RELAXATION_STEPS):
            return


def _dynamics(alloy: Alloy, frames: int, rng: np.random.Generator) -> Iterator[CrystalRecord]:
    atoms = distort(alloy.atoms, rng)
    thermal_energy = units.kB * rng.uniform(300, 1500)
    spread = np.sqrt(atoms.get_masses()[:, None] * thermal_energy)
    atoms.set_momenta(spread * rng.normal(size=atoms.positions.shape))
    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP_FS * units.fs)
    for frame in range(frames):
        dynamics.run(DYNAMICS_STEPS)
        yield _frame(alloy, "md", frame, atoms)


def _frame(alloy: Alloy, run: str, frame: int, atoms: Atoms) -> CrystalRecord:
    labels = {
        "energy": Label(atoms.get_potential_energy(), ENERGY, SCHEME),
        "forces": Label(atoms.get_forces(), FORCE, SCHEME, per_atom=True),
        "stress": Label(atoms.get_stress(voigt=False), STRESS, SCHEME),
    }
    return _record(f"{alloy.name}-{run}-{frame:03d}", alloy, atoms, labels)


def _record(name: str, alloy: Alloy, atoms: Atoms, labels: dict[str, Label]) -> CrystalRecord:
    # Copies: the optimiser and the dynamics go on changing the arrays of ``atoms`` in place.
    return CrystalRecord(
        id=name,
        numbers=atoms.numbers.astype(np.uint8),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        labels=labels,
        group=alloy.formula,
    )


@dataclass(frozen=True)
class EmtBulkModulus:
    """Alloys at zero pressure with ``bulk_modulus`` (GPa) from their EMT equation of state.

    The volume is relaxed, shape and fractional coordinates are those of the undistorted cell, so
    that open lattices stay open.

    Attributes:
        alloys: Number of alloys, each its own group.
        seed: Of every random choice.
    """

    alloys: int = 300
    seed: int = 0

    def read(self, uri: str = "emt://") -> Iterator[CrystalRecord | BadRecord]:
        """Yields the cells; a query such as ``emt://?alloys=10`` overrides arguments."""
        source = _with_query(self, uri)
        for alloy in draw_alloys(source.alloys, source.seed, "bulk_modulus"):
            try:
                atoms = relax_volume(alloy.atoms)
                label = Label(np.asarray(bulk_modulus(atoms)), "GPa", SCHEME)
            except RecordError as error:
                yield BadRecord(alloy.name, error)
            else:
                yield _record(alloy.name, alloy, atoms, {"bulk_modulus": label})


def relax_volume(atoms: Atoms) -> Atoms:
    """Returns the cell scaled, at fixed shape and fractional coordinates, to zero pressure.

    Raises:
        RecordError: If the pressure does not change sign between 85 % and 125 % in length.
    """
    cell = atoms.cell.array
    relaxed = atoms.copy()
    relaxed.calc = EMT()

    def tension(scale: float) -> float:
        relaxed.set_cell(cell * scale, scale_atoms=True)
        return float(relaxed.get_stress()[:3].sum())

    try:
        scale = brentq(tension, 0.85, 1.25, xtol=1e-5)
    except ValueError as error:
        formula = atoms.get_chemical_formula()
        raise RecordError(f"emt: {formula} has no volume without pressure") from error
    tension(scale)
    return relaxed


def bulk_modulus(atoms: Atoms, span: float = 0.04, points: int = 9) -> float:
    """Returns V d²E/dV² at the minimum of E(V), in GPa.

    The cell is scaled by up to ±``span`` in length at fixed shape and fixed fractional
    coordinates, and E is fitted by a cubic in V^(-2/3), which is the third-order
    Birch-Murnaghan equation of state (F. Birch, Phys. Rev. 71, 809 (1947)). Much smaller spans
    measure the potential's cutoff instead: EMT switches pairs off within 0.1 Å around 5.38 Å, and a
    shell of neighbours there changes the curvature by several GPa.

    Raises:
        RecordError: If E(V) has no minimum inside the scanned volumes.
    """
    scales = 1 + np.linspace(-span, span, points)
    cell = atoms.cell.array
    trial = atoms.copy()
    trial.calc = atoms.calc
    volumes, energies = np.empty(points), np.empty(points)
    for i, scale in enumerate(scales):
        trial.set_cell(cell * scale, scale_atoms=True)
        volumes[i], energies[i] = trial.get_volume(), trial.get_potential_energy()
    inverse_squares = volumes ** (-2 / 3)
    fit = Polynomial.fit(inverse_squares, energies, 3)
    slope, second = fit.deriv(1), fit.deriv(2)
    stationary = slope.roots()
    real = stationary.real[np.abs(np.imag(stationary)) < 1e-9]
    inside = (real > inverse_squares.min()) & (real < inverse_squares.max())
    minima = real[inside & (second(real) > 0)]
    if len(minima) != 1:
        formula = atoms.get_chemical_formula()
        raise RecordError(f"emt: E(V) of {formula} has no minimum within ±{span:.0%} in length")
    x = float(minima[0])
    # With dE/dV = 0, d²E/dV² is E''(x) (dx/dV)², where V = x^(-3/2) and dx/dV = -2/3 x^(5/2).
    curvature = second(x) * (2 / 3 * x ** (5 / 2)) ** 2
    return float(curvature * x ** (-3 / 2) * GPA_PER_EV_A3)
