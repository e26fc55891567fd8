"""VASP calculations: every ionic step of each ``vasprun.xml`` or ``OUTCAR`` below a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import is_archive, open_text, unpacked, unpacked_folder
from epitaxy.data.sources.outcar import OutcarReader
from epitaxy.data.sources.structures import from_pymatgen
from epitaxy.errors import RecordError, SourceError

_RUNS, _LOGS = "vasprun*.xml*", "OUTCAR*"

Step = tuple[dict[str, Any], bool]
"""Entry of an ionic step, and whether its electrons converged."""


class VaspRuns(EntrySource):
    """Reads ``vasprun.xml`` files (by pymatgen) and, where there is none, ``OUTCAR``.

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

        A file that is cut off gives its complete steps and then a bad record.

        Raises:
            SourceError: If there is no calculation.
        """
        number = 0
        with _root(uri) as root:
            for path, name in _calculations(uri, root):
                place = uri if path == root else f"{uri}: {path.relative_to(root).as_posix()}"
                steps = _log_steps(path) if path.name.startswith("OUTCAR") else _run_steps(path)
                step = 0
                try:
                    for step, (entry, converged) in enumerate(steps):
                        context = {"number": number, "row": number + 1, "file": name}
                        entry |= {"step": step, "run": name}
                        yield self._piece(f"{place}, step {step}", (context, entry), converged)
                        number += 1
                except (RecordError, SourceError) as error:
                    yield BadRecord(f"{place}, after step {step}", error)
                    number += 1

    def _piece(self, where: str, content: Any, converged: bool) -> Piece | BadRecord:
        if converged or not self._converged_only:
            return Piece(where, content)
        text = "the electrons did not converge (converged_only: false takes it anyway)"
        return BadRecord(where, RecordError(text))


@contextmanager
def _root(uri: str) -> Iterator[Path]:
    if not Path(uri).exists():
        raise SourceError(f"there is no folder {uri!r}")
    if is_archive(uri):
        with unpacked_folder(uri) as folder:
            yield folder
    else:
        yield Path(uri)


def _calculations(uri: str, root: Path) -> Iterator[tuple[Path, str]]:
    files = [root] if root.is_file() else sorted({*root.rglob(_RUNS), *root.rglob(_LOGS)})
    files = [path for path in files if path.is_file()]
    with_run = {path.parent for path in files if not path.name.startswith("OUTCAR")}
    chosen = [p for p in files if not (p.name.startswith("OUTCAR") and p.parent in with_run)]
    if not chosen:
        raise SourceError(f"{uri} holds no {_RUNS} and no {_LOGS}")
    for path in chosen:
        alone = sum(other.parent == path.parent for other in chosen) == 1
        inside = path.parent if alone and root.is_dir() else path
        name = inside.relative_to(root).as_posix() if inside != root else Path(uri).name
        yield path, name


def _run_steps(path: Path) -> Iterator[Step]:
    from pymatgen.io.vasp import Vasprun  # takes a second to import

    try:
        with unpacked(str(path)) as plain, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = Vasprun(
                plain,
                parse_dos=False,
                parse_eigen=False,
                parse_potcar_file=False,
                exception_on_bad_xml=False,
            )
            limit = int(run.parameters.get("NELM", 0) or 0)
    except SourceError:
        raise
    except Exception as error:  # whatever a half-written file makes the parser raise
        reason = str(error).partition("\n")[0][:200]
        raise RecordError(f"the file cannot be read: {type(error).__name__}: {reason}") from error
    for step in run.ionic_steps:
        yield _run_entry(step), not limit or len(step["electronic_steps"]) < limit
    if any("XML is malformed" in str(warning.message) for warning in caught) or not run.ionic_steps:
        count = len(run.ionic_steps)
        raise RecordError(f"the file is cut off or damaged after {count} ionic steps")


def _run_entry(step: Mapping[str, Any]) -> dict[str, Any]:
    if step.get("structure") is None:
        raise RecordError("an ionic step has no structure")
    electronic = step["electronic_steps"][-1] if step["electronic_steps"] else {}
    free, zero = electronic.get("e_fr_energy"), electronic.get("e_0_energy")
    energy = step.get("e_fr_energy", free)
    entry = from_pymatgen(step["structure"])._asdict() | {"energy": energy, "energy_sigma0": None}
    if energy is not None and free is not None and zero is not None:
        # VASP fills e_0_energy of the ionic step with another quantity, and its electronic steps
        # lack the dispersion correction: so the difference there is added here.
        entry["energy_sigma0"] = energy + (zero - free)
    return entry | {name: step[name] for name in ("forces", "stress") if step.get(name) is not None}


def _log_steps(path: Path) -> Iterator[Step]:
    with open_text(str(path), errors="replace") as stream:
        yield from OutcarReader(stream)
