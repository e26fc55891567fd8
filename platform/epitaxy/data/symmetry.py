"""Space group and crystal system of a crystal as labels, found by spglib.

The lattice is reduced (Lenstra, Lenstra and Lovász 1982) before the search: then the answer does
not depend on which cell describes the crystal, and the search, which runs for minutes on a strongly
sheared cell, takes milliseconds.
"""

from __future__ import annotations

import os
import warnings
from bisect import bisect_right
from threading import Lock

import numpy as np

from epitaxy.errors import RecordError
from epitaxy.graph.record import CrystalRecord, Label

SPACE_GROUP = "space_group"
"""Label: number of the space group, 1 to 230."""
CRYSTAL_SYSTEM = "crystal_system"
"""Label: index into ``CRYSTAL_SYSTEMS``."""

CRYSTAL_SYSTEMS = (
    "triclinic",
    "monoclinic",
    "orthorhombic",
    "tetragonal",
    "trigonal",
    "hexagonal",
    "cubic",
)
_FIRST_GROUPS = (1, 3, 16, 75, 143, 168, 195)

SYMPREC = 0.01
"""Å. Default of pymatgen's ``SpacegroupAnalyzer``; the Materials Project publishes 0.1 Å."""
ANGLE_TOLERANCE = 5.0
"""Degrees; likewise."""
MAX_ATOMS = 2000
"""Largest cell that is analysed: the search takes seconds here and grows with the cube."""

_SEARCHING = Lock()
"""Threads search one after the other: they share the filters of warnings."""


def symmetry_labels(
    record: CrystalRecord, symprec: float = SYMPREC, angle_tolerance: float = ANGLE_TOLERANCE
) -> dict[str, Label]:
    """Returns the labels ``space_group`` and ``crystal_system``, without unit.

    Records that are not periodic along all three axes, and compositions, have none. All atoms of
    an element count as alike: spins and charges are not looked at.

    Args:
        record: The crystal.
        symprec: How far an atom may be from its symmetric place, Å.
        angle_tolerance: How far an angle may be off, degrees.

    Raises:
        RecordError: If spglib finds no space group within the tolerance, or the cell is too large.
    """
    if not has_symmetry(record):
        return {}
    number = space_group(record, symprec, angle_tolerance)
    told = scheme(symprec, angle_tolerance)
    return {
        SPACE_GROUP: Label(np.array(float(number)), "", told),
        CRYSTAL_SYSTEM: Label(np.array(float(crystal_system(number))), "", told),
    }


def has_symmetry(record: CrystalRecord) -> bool:
    """Returns whether a record is a crystal: a structure that is periodic along all three axes."""
    return not record.is_composition and bool(record.pbc.all())


def scheme(symprec: float = SYMPREC, angle_tolerance: float = ANGLE_TOLERANCE) -> str:
    """Returns what the labels say of how they were found."""
    return f"spglib, symprec {symprec:g} Å, angle tolerance {angle_tolerance:g}°"


def with_symmetry(
    record: CrystalRecord, symprec: float = SYMPREC, angle_tolerance: float = ANGLE_TOLERANCE
) -> tuple[CrystalRecord, str]:
    """Returns ``record`` with its symmetry labels, and the reason if they could not be found.

    The reason is empty for a record that has its labels, and for one that cannot have any.
    """
    try:
        labels = symmetry_labels(record, symprec, angle_tolerance)
    except RecordError as error:
        return record, str(error)
    return (record.replace(labels={**record.labels, **labels}) if labels else record), ""


def crystal_system(space_group: int) -> int:
    """Returns the index into ``CRYSTAL_SYSTEMS`` of a space group.

    Raises:
        RecordError: If there is no such space group.
    """
    if not 1 <= space_group <= 230:
        raise RecordError(f"{space_group} is no space group (1 to 230)")
    return bisect_right(_FIRST_GROUPS, space_group) - 1


def space_group(
    record: CrystalRecord, symprec: float = SYMPREC, angle_tolerance: float = ANGLE_TOLERANCE
) -> int:
    """Returns the number of the space group of a crystal, 1 to 230.

    Raises:
        RecordError: If spglib finds none within the tolerance, or the cell is too large.
    """
    import spglib
    from pymatgen.core import Lattice

    if record.num_atoms > MAX_ATOMS:
        raise RecordError(
            f"record {record.id!r} has {record.num_atoms} atoms; symmetry is looked for in cells "
            f"of up to {MAX_ATOMS}"
        )
    cell = Lattice(record.cell).get_lll_reduced_lattice().matrix
    fractions = np.linalg.solve(cell.T, record.positions.T).T % 1.0
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it writes to stderr about its own retries
    try:
        with _SEARCHING, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # how a failure is told will change
            found = spglib.get_symmetry_dataset(
                (cell.tolist(), fractions.tolist(), record.numbers.tolist()),
                symprec,
                angle_tolerance,
            )
    except Exception as error:  # SpglibError, ValueError: what is raised depends on its version
        raise RecordError(f"record {record.id!r}: spglib failed: {error}") from error
    if found is None:
        raise RecordError(
            f"record {record.id!r}: spglib finds no space group within {symprec:g} Å; atoms closer "
            "than that to each other, or a cell without volume?"
        )
    return int(found.number)
