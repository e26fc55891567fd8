"""VASP calculations: every ionic step of each ``vasprun.xml`` or ``OUTCAR`` below a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import unpacked
from epitaxy.data.sources.structures import from_pymatgen
from epitaxy.errors import RecordError, SourceError
from epitaxy.units import GPA_PER_EV_A3

_RUNS, _LOGS = "vasprun*.xml*", "OUTCAR*"
_KBAR_PER_EV_A3 = 10 * GPA_PER_EV_A3


class VaspRuns(EntrySource):
    """Reads ``vasprun.xml`` files (by pymatgen) and, where there is none, ``OUTCAR`` (by ASE).

    An entry has the structure, ``energy`` (the free energy, which belongs to the forces),
    ``energy_sigma0`` (extrapolated to zero smearing), ``forces`` and ``stress`` (kbar, compression
    positive), ``step`` and ``run``, the calculation's path below the folder.

    Args:
        fields: Label name to where it stands in an entry.
        converged_only: Whether a step whose electrons did not converge is a bad record.
        **entry: How an entry is understood; see ``EntrySource``.
    """

    default_id = "{run}-{step}"

    def __init__(
        self, fields: Mapping[str, FieldRule], *, converged_only: bool = True, **entry: Any
    ) -> None:
        super().__init__(fields, **{"group": "{run}", **entry})
        self._converged_only = converged_only

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the ionic steps of every calculation, folders in alphabetical order.

        Raises:
            SourceError: If there is no calculation.
        """
        number = 0
        for path, name in _calculations(uri):
            try:
                steps = _outcar_steps(path) if path.name.startswith("OUTCAR") else _steps(path)
            except RecordError as error:
                yield BadRecord(str(path), error)
                continue
            for step, (entry, converged) in enumerate(steps):
                where = f"{path}, step {step}"
                if self._converged_only and not converged:
                    text = "the electrons did not converge (converged_only: false takes it anyway)"
                    yield BadRecord(where, RecordError(text))
                else:
                    context = {"number": number, "row": number + 1, "file": name}
                    yield Piece(where, (context, {**entry, "step": step, "run": name}))
                number += 1


def _calculations(uri: str) -> Iterator[tuple[Path, str]]:
    root = Path(uri)
    if not root.exists():
        raise SourceError(f"there is no folder {uri!r}")
    files = [root] if root.is_file() else sorted({*root.rglob(_RUNS), *root.rglob(_LOGS)})
    with_run = {path.parent for path in files if not path.name.startswith("OUTCAR")}
    chosen = [p for p in files if not (p.name.startswith("OUTCAR") and p.parent in with_run)]
    if not chosen:
        raise SourceError(f"{uri} holds no {_RUNS} and no {_LOGS}")
    for path in chosen:
        alone = sum(other.parent == path.parent for other in chosen) == 1
        inside = path.parent if alone and root.is_dir() else path
        name = inside.relative_to(root).as_posix() if inside != root else root.name
        yield path, name


def _steps(path: Path) -> list[tuple[dict[str, Any], bool]]:
    from pymatgen.io.vasp import Vasprun

    try:
        with unpacked(str(path)) as plain, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(plain, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    except ParseError as error:
        raise RecordError(f"the file is cut off or damaged: {error}") from error
    except Exception as error:  # whatever a half-written file makes the parser raise
        reason = str(error).partition("\n")[0][:200]
        raise RecordError(f"the file cannot be read: {type(error).__name__}: {reason}") from error
    limit = int(run.parameters.get("NELM", 0) or 0)
    steps = []
    for step in run.ionic_steps:
        converged = not limit or len(step["electronic_steps"]) < limit
        steps.append((_entry(step), converged))
    return steps


def _entry(step: Mapping[str, Any]) -> dict[str, Any]:
    geometry = from_pymatgen(step["structure"])
    electronic = step["electronic_steps"][-1] if step["electronic_steps"] else {}
    entry = geometry._asdict() | {
        "energy": step.get("e_fr_energy", electronic.get("e_fr_energy")),
        "energy_sigma0": step.get("e_0_energy", electronic.get("e_0_energy")),
    }
    return entry | {name: step[name] for name in ("forces", "stress") if step.get(name) is not None}


def _outcar_steps(path: Path) -> list[tuple[dict[str, Any], bool]]:
    from ase.io import read

    try:
        with unpacked(str(path)) as plain:
            frames = read(plain, index=":", format="vasp-out")
    except Exception as error:  # whatever a half-written file makes the parser raise
        reason = str(error).partition("\n")[0][:200]
        raise RecordError(f"the file cannot be read: {type(error).__name__}: {reason}") from error
    return [(_frame_entry(atoms), bool(atoms.calc.converged)) for atoms in frames]


def _frame_entry(atoms: Any) -> dict[str, Any]:
    results = dict(atoms.calc.results)
    entry = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": np.array(atoms.cell),
        "pbc": atoms.pbc,
        "energy": results.get("free_energy"),
        "energy_sigma0": results.get("energy"),
        "forces": results.get("forces"),
    }
    if results.get("stress") is not None:  # back to VASP's own unit and sign
        xx, yy, zz, yz, xz, xy = -np.array(results["stress"]) * _KBAR_PER_EV_A3
        entry["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return {name: value for name, value in entry.items() if value is not None}
