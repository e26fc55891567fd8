"""Writes what VASP writes: ``vasprun.xml`` and ``OUTCAR`` of one made-up calculation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Step:
    """One ionic step.

    Attributes:
        cell: Å, rows are vectors.
        positions: Å.
        forces: eV/Å.
        stress: kbar, compression positive, symmetric 3×3.
        free: Free energy, eV.
        zero: Energy extrapolated to no smearing, eV.
        iterations: Electronic steps.
        reached: Whether the electrons converged.
    """

    cell: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    free: float
    zero: float
    iterations: int = 3
    reached: bool = True


@dataclass(frozen=True)
class Run:
    """A calculation of one Mg and two O atoms unless said otherwise."""

    steps: tuple[Step, ...]
    symbols: tuple[str, ...] = ("Mg", "O")
    counts: tuple[int, ...] = (1, 2)
    limit: int = 60
    dispersion: float = 0.0
    titles: tuple[str, ...] = field(default=("PAW_PBE Mg_pv 13Apr2007", "PAW_PBE O 08Apr2002"))

    def with_step(self, number: int, **changes: object) -> Run:
        """Returns the calculation with one step changed."""
        steps = list(self.steps)
        steps[number] = replace(steps[number], **changes)  # type: ignore[arg-type]
        return replace(self, steps=tuple(steps))


def made_up(count: int = 3, seed: int = 0) -> Run:
    """Returns a calculation whose numbers have as many digits as VASP prints."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        stress = rng.normal(size=(3, 3)) * 50
        cell = np.round(np.eye(3) * 4.2 + rng.normal(size=(3, 3)) * 0.3, 6)
        steps.append(
            Step(
                cell=cell,
                positions=np.round(rng.uniform(size=(3, 3)) @ cell, 5),
                forces=np.round(rng.normal(size=(3, 3)), 6),
                stress=np.round((stress + stress.T) / 2, 5),
                free=round(float(rng.normal() - 15), 8),
                zero=round(float(rng.normal() - 15), 8),
            )
        )
    return Run(tuple(steps))


def vasprun(run: Run) -> str:
    """Returns the text of ``vasprun.xml``."""
    atoms = [s for s, n in zip(run.symbols, run.counts, strict=True) for _ in range(n)]
    kinds = [k for k, n in enumerate(run.counts, 1) for _ in range(n)]
    rows = "".join(
        f"    <rc><c>{s}</c><c>{k}</c></rc>\n" for s, k in zip(atoms, kinds, strict=True)
    )
    types = "".join(
        f"    <rc><c>{n}</c><c>{s}</c><c>20.0</c><c>6.0</c><c>{t}</c></rc>\n"
        for s, n, t in zip(run.symbols, run.counts, run.titles, strict=True)
    )
    parts = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
        '  <i name="program" type="string">vasp</i>\n  <i name="version" type="string">6.3.0</i>\n'
        ' </generator>\n <incar>\n  <i type="int" name="IBRION">2</i>\n </incar>\n <kpoints>\n'
        '  <generation param="Gamma">\n   <v type="int" name="divisions">1 1 1</v>\n'
        '   <v name="usershift">0.0 0.0 0.0</v>\n  </generation>\n'
        '  <varray name="kpointlist"><v>0.0 0.0 0.0</v></varray>\n'
        '  <varray name="weights"><v>1.0</v></varray>\n </kpoints>\n <parameters>\n'
        f'  <separator name="electronic"><i type="int" name="NELM">{run.limit}</i></separator>\n'
        '  <separator name="ionic"><i type="int" name="IBRION">2</i>\n'
        '   <i type="int" name="NSW">9</i></separator>\n </parameters>\n <atominfo>\n'
        f"  <atoms>{len(atoms)}</atoms>\n  <types>{len(run.symbols)}</types>\n"
        f'  <array name="atoms"><set>\n{rows}  </set></array>\n'
        f'  <array name="atomtypes"><set>\n{types}  </set></array>\n </atominfo>\n',
        _xml_structure(run.steps[0], ' name="initialpos"'),
    ]
    parts += [_xml_step(run, step) for step in run.steps]
    parts += [_xml_structure(run.steps[-1], ' name="finalpos"'), "</modeling>\n"]
    return "".join(parts)


def _xml_step(run: Run, step: Step) -> str:
    electronic = (step.free - run.dispersion, step.zero - run.dispersion)
    scsteps = "".join(
        "  <scstep>\n" + _xml_energy(electronic[0], electronic[1]) + "  </scstep>\n"
        for _ in range(step.iterations)
    )
    return (
        f" <calculation>\n{scsteps}{_xml_structure(step, '')}"
        f"{_varray('forces', step.forces)}{_varray('stress', step.stress)}"
        # As VASP does it, the last energy of the ionic step is not the one of this name.
        f"{_xml_energy(step.free, 0.12345678)} </calculation>\n"
    )


def _xml_energy(free: float, zero: float) -> str:
    return (
        f'  <energy>\n   <i name="e_fr_energy">{free:16.8f} </i>\n'
        f'   <i name="e_wo_entrp">{free:16.8f} </i>\n'
        f'   <i name="e_0_energy">{zero:16.8f} </i>\n  </energy>\n'
    )


def _xml_structure(step: Step, name: str) -> str:
    fractional = step.positions @ np.linalg.inv(step.cell)
    return (
        f" <structure{name}>\n  <crystal>\n{_varray('basis', step.cell)}  </crystal>\n"
        f"{_varray('positions', fractional, 16)} </structure>\n"
    )


def _varray(name: str, rows: np.ndarray, digits: int = 8) -> str:
    lines = "".join(
        "   <v>" + "".join(f" {value:.{digits}f}" for value in row) + " </v>\n" for row in rows
    )
    return f'  <varray name="{name}">\n{lines}  </varray>\n'


def outcar(run: Run, *, names: str = "VRHFIN", done: bool = True) -> str:
    """Returns the text of ``OUTCAR``; ``names`` says which lines tell the elements."""
    lines = [" vasp.6.3.0 20Jan22 (build) complex", ""]
    lines += [f" POTCAR:    {title}" for title in run.titles] if names else []
    for symbol, title in zip(run.symbols, run.titles, strict=True):
        if names:
            lines.append(f" POTCAR:    {title}")
        if names == "VRHFIN":
            lines.append(f"   VRHFIN ={symbol}: s2p6")
        if names in ("VRHFIN", "TITEL"):
            lines.append(f"   TITEL  = {title}")
    counts = "".join(f"{count:4d}" for count in run.counts)
    lines += [
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of"
        " bands    NBANDS=      8",
        " k-points in reciprocal lattice and weights: Gamma",
        "   0.00000000  0.00000000  0.00000000       1.000",
        f"   ions per type =            {counts}",
        f"   NELM   =    {run.limit:3d};   NELMIN=  2; NELMDL= -5     # of ELM steps",
        "   ISPIN  =      1    spin polarized calculation?",
        *_cell_lines(run.steps[0]),
    ]
    for number, step in enumerate(run.steps, 1):
        lines += _log_step(number, step)
    if done:
        lines += [" General timing and accounting informations for this job:", ""]
    return "\n".join(lines) + "\n"


def _log_step(number: int, step: Step) -> list[str]:
    lines = []
    for iteration in range(1, step.iterations + 1):
        lines += [
            f"----------------- Iteration {number:5d}({iteration:4d})  ---------------",
            "  Free energy of the ion-electron system (eV)",
            f"  free energy    TOTEN  =      {step.free:14.8f} eV",
            f"  energy without entropy = {step.free:14.8f}  energy(sigma->0) = {step.zero:14.8f}",
        ]
    if step.reached:
        lines.append("------------------------ aborting loop because EDIFF is reached ------------")
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = step.stress
    lines += [
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):",
        "  Direction    XX          YY          ZZ          XY          YZ          ZX",
        "  in kB  " + "".join(f"{value:12.5f}" for value in (xx, yy, zz, xy, yz, xz)),
        f"  external pressure = {np.trace(step.stress) / 3:11.2f} kB  Pullay stress = 0.00 kB",
        " VOLUME and BASIS-vectors are now :",
        *_cell_lines(step),
        " POSITION                                       TOTAL-FORCE (eV/Angst)",
        " " + "-" * 83,
    ]
    for position, force in zip(step.positions, step.forces, strict=True):
        lines.append("".join(f"{value:13.5f}" for value in position)
                     + "  " + "".join(f"{value:14.6f}" for value in force))  # fmt: skip
    lines += [
        " " + "-" * 83,
        "    total drift:                               -0.000001     -0.000001      0.000012",
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)",
        "  ---------------------------------------------------",
        f"  free  energy   TOTEN  =      {step.free:14.8f} eV",
        "",
        f"  energy  without entropy=    {step.free:14.8f}  energy(sigma->0) =   {step.zero:14.8f}",
        "",
    ]
    return lines


def _cell_lines(step: Step) -> list[str]:
    inverse = np.linalg.inv(step.cell).T
    rows = [
        "".join(f"{value:13.9f}" for value in (*vector, *other))
        for vector, other in zip(step.cell, inverse, strict=True)
    ]
    return ["      direct lattice vectors                 reciprocal lattice vectors", *rows, ""]
