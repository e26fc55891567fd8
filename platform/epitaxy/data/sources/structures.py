"""Crystal structures in the notations that several sources share, as plain arrays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from epitaxy.errors import RecordError

logger = logging.getLogger(__name__)

_PREFIX = "Issues encountered while parsing CIF: "
_HARMLESS = ("rounded to ideal values", "Skipping relative stoichiometry check")


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Atomic numbers (atoms), Cartesian positions (atoms, 3) and cell (3, 3), Å."""


def parse_cif(text: str, where: str) -> Arrays:
    """Returns atomic numbers, positions (Å) and cell (Å) of the crystal in a CIF.

    All sites of the cell, symmetry applied, in pymatgen's order (that of
    ``Structure.from_file``); fractional coordinates within 1e-4 of a simple fraction are set to it.

    Raises:
        RecordError: If the text holds no structure or several, or partially occupied sites.
    """
    from pymatgen.io.cif import CifParser  # takes a second to import

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            structures = CifParser.from_str(text).parse_structures(primitive=False)
    except Exception as error:  # a malformed CIF makes the parser raise almost anything
        raise RecordError(f"the CIF cannot be read: {type(error).__name__}: {error}") from error
    if len(structures) != 1:
        raise RecordError(f"the CIF holds {len(structures)} structures, expected one")
    for warning in caught:
        for line in str(warning.message).removeprefix(_PREFIX).splitlines():
            if not any(text in line for text in _HARMLESS):
                logger.warning("%s: %s", where, line)
    structure = structures[0]
    if not structure.is_ordered:
        site = next(site for site in structure if not site.is_ordered)
        raise RecordError(f"a site is not fully occupied by one element: {site.species_string}")
    numbers = np.array([site.specie.Z for site in structure])
    return numbers, np.array(structure.cart_coords), np.array(structure.lattice.matrix)


def parse_jarvis(atoms: Any) -> Arrays:
    """Returns atomic numbers, positions (Å) and cell (Å) of a JARVIS ``atoms`` dictionary.

    ``coords`` are fractional unless ``cartesian`` is true.

    Raises:
        RecordError: If a key is missing or the arrays do not fit together.
    """
    if not isinstance(atoms, Mapping):
        raise RecordError(f"'atoms' is {str(atoms)[:60]!r}, expected a dictionary")
    for key in ("lattice_mat", "coords", "elements"):
        if key not in atoms:
            raise RecordError(f"'atoms' has no {key!r}, only {', '.join(sorted(atoms))}")
    for index, element in enumerate(atoms["elements"]):
        if atomic_numbers.get(element, 0) < 1:
            raise RecordError(f"atom {index} is of unknown element {element!r}")
    try:
        cell = np.array(atoms["lattice_mat"], dtype=np.float64).reshape(3, 3)
        coordinates = np.array(atoms["coords"], dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise RecordError(f"'atoms' has arrays of a wrong form: {error}") from error
    numbers = np.array([atomic_numbers[element] for element in atoms["elements"]])
    return numbers, coordinates if atoms.get("cartesian") else coordinates @ cell, cell
