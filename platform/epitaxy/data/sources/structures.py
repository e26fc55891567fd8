"""Crystal structures in the notations that several sources share, as plain arrays."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from epitaxy.data.sources.arrays import ARRAY_KEYS as ARRAY_KEYS
from epitaxy.data.sources.arrays import (
    Geometry,
    cartesian,
    decode_arrays,
    literal,
    parse_arrays,
    read_cell,
    read_flags,
    read_lattice,
    read_numbers,
    vectors,
)
from epitaxy.errors import RecordError
from epitaxy.graph.symbols import atomic_number

logger = logging.getLogger(__name__)

_PREFIX = "Issues encountered while parsing CIF: "
_HARMLESS = (
    "rounded to ideal values",
    "Skipping relative stoichiometry check",
    "No Pauling electronegativity",
)
_CIF = re.compile(r"^\s*data_|_cell[_.]length_a|_atom_site", re.IGNORECASE | re.MULTILINE)
_AGREE = 0.01
"""Å. Largest difference of a site's fractional and Cartesian coordinates."""
_FULL = 1e-4
"""Largest difference of an occupancy from one that is taken for rounding."""


def parse_structure(
    value: Any, where: str, arrays: Mapping[str, str] | None = None, notation: str = ""
) -> Geometry:
    """Returns the structure that ``value`` describes, whatever its notation.

    Understood are the text of a CIF, POSCAR or JSON, and the dictionaries of pymatgen, JARVIS and
    ASE as well as bare arrays under the names of ``ARRAY_KEYS``.

    Args:
        value: The structure.
        where: File and record, for messages.
        arrays: Names of bare arrays, if they are other than usual: ``{"cell": "h_matrix", …}``.
        notation: ``cif``, ``poscar`` or ``json`` for a text that could be any.

    Raises:
        RecordError: If the notation is not understood, or the structure is incomplete.
    """
    if isinstance(value, str):
        return _parse_text(value, where, notation)
    if not isinstance(value, Mapping):
        raise RecordError(f"the structure is {str(value)[:60]!r}, expected a dictionary or text")
    if arrays:
        return parse_arrays(value, arrays)
    if "lattice_mat" in value and "elements" in value:
        return parse_jarvis(value)
    sites = value.get("sites")
    if isinstance(sites, list) and all(isinstance(site, Mapping) for site in sites):
        return parse_pymatgen(value)
    return parse_arrays(value, {})


def _parse_text(text: str, where: str, notation: str) -> Geometry:
    if not text.strip():
        raise RecordError("the structure is empty text")
    if not notation and text.lstrip()[0] in "{[":
        notation = "json"
    if notation == "json":
        return parse_structure(_only_row(decode_arrays(literal(text))), where)
    if notation == "cif" or (not notation and _CIF.search(text)):
        return parse_cif(text, where)
    return parse_poscar(text)


def _only_row(content: Any) -> Any:
    """Returns the row of a JSON database of ASE, as ``Atoms.write`` makes one per structure."""
    if not (isinstance(content, Mapping) and "ids" in content and "nextid" in content):
        return content
    rows = [row for row in content.values() if isinstance(row, Mapping) and "numbers" in row]
    if len(rows) != 1:
        raise RecordError(
            f"the text is an ASE database of {len(rows)} structures, expected one; read the file "
            "by epitaxy.data.sources.ase_db.AseDb"
        )
    return rows[0]


def parse_cif(text: str, where: str) -> Geometry:
    """Returns the crystal in a CIF.

    All sites of the cell, symmetry applied, in pymatgen's order (that of
    ``Structure.from_file``); fractional coordinates within 1e-4 of a simple fraction are set to it.

    Raises:
        RecordError: If the text holds no structure or several, or partially occupied sites.
    """
    from pymatgen.io.cif import CifParser  # takes a second to import

    def parse() -> Any:
        structures = CifParser.from_str(text).parse_structures(primitive=False)
        if len(structures) != 1:
            raise RecordError(f"the CIF holds {len(structures)} structures, expected one")
        return structures[0]

    structure, caught = _quietly("CIF", parse)
    for line in caught:
        if not any(text in line for text in _HARMLESS):
            logger.warning("%s: %s", where, line)
    return from_pymatgen(structure)


def parse_poscar(text: str) -> Geometry:
    """Returns the crystal in a POSCAR (VASP 5, with a line of element symbols).

    Raises:
        RecordError: If it cannot be read or does not name its elements.
    """
    from pymatgen.io.vasp import Poscar

    _check_counts(text)
    poscar, caught = _quietly("POSCAR", lambda: Poscar.from_str(text, default_names=None))
    invented = [line for line in caught if "Elements in POSCAR cannot be determined" in line]
    if invented:
        raise RecordError("the POSCAR has no line of element symbols (VASP 4): add one")
    return from_pymatgen(poscar.structure)


def _check_counts(text: str) -> None:
    """Refuses numbers of atoms that the text has no lines for, before anything is made of them."""
    lines = text.splitlines()
    for line in lines[5:30]:
        words = line.split()
        if words and all(word.isdecimal() for word in words):
            if any(len(word) > 9 for word in words) or sum(map(int, words)) > len(lines):
                raise RecordError(f"the POSCAR has {line.strip()[:40]} atoms, but fewer lines")
            return


def _quietly(kind: str, parse: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Returns what ``parse`` gives and the lines it warned with, each once."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parsed = parse()
    except RecordError:
        raise
    except Exception as error:  # a malformed file makes such parsers raise almost anything
        reason = str(error).partition("\n")[0][:200]
        raise RecordError(f"the {kind} cannot be read: {type(error).__name__}: {reason}") from error
    texts = [str(warning.message).removeprefix(_PREFIX) for warning in caught]
    return parsed, list(dict.fromkeys(line for text in texts for line in text.splitlines()))


def from_pymatgen(structure: Any) -> Geometry:
    """Returns a pymatgen ``Structure`` or ``Molecule`` as arrays.

    Raises:
        RecordError: If a site is not fully occupied by one element.
    """
    numbers = [
        _one_element(index, [(kind.symbol, amount) for kind, amount in site.species.items()])
        for index, site in enumerate(structure)
    ]
    with np.errstate(all="ignore"):  # infinite coordinates; they are refused next
        positions = vectors("positions", np.array(structure.cart_coords))
    lattice = getattr(structure, "lattice", None)
    if lattice is None:
        pbc = np.zeros(3, dtype=bool)
        return Geometry(np.array(numbers, dtype=np.int64), positions, np.zeros((3, 3)), pbc)
    cell, pbc = read_cell(np.array(lattice.matrix)), np.array(lattice.pbc, dtype=bool)
    return Geometry(np.array(numbers, dtype=np.int64), positions, cell, pbc)


def parse_jarvis(atoms: Any) -> Geometry:
    """Returns the crystal in a JARVIS ``atoms`` dictionary.

    ``coords`` are fractional unless ``cartesian`` is true.

    Raises:
        RecordError: If a key is missing or the arrays do not fit together.
    """
    if not isinstance(atoms, Mapping):
        raise RecordError(f"'atoms' is {str(atoms)[:60]!r}, expected a dictionary")
    for key in ("lattice_mat", "coords", "elements"):
        if atoms.get(key) is None:
            raise RecordError(f"'atoms' has no {key!r}, only {', '.join(map(str, atoms))[:200]}")
    cell = read_cell(atoms["lattice_mat"])
    coordinates = vectors("coords", atoms["coords"])
    if atoms.get("cartesian") is None or not read_flags(atoms["cartesian"])[0]:
        coordinates = cartesian(coordinates, cell)
    return Geometry(read_numbers(atoms["elements"]), coordinates, cell)


def parse_pymatgen(structure: Mapping[str, Any]) -> Geometry:
    """Returns the crystal in the dictionary of a pymatgen ``Structure``, of any version.

    Raises:
        RecordError: If a key is missing, a site is not fully occupied by one element, or its
            fractional and Cartesian coordinates contradict each other.
    """
    lattice, sites = structure.get("lattice"), structure["sites"]
    if not isinstance(sites, (list, tuple)) or not all(isinstance(s, Mapping) for s in sites):
        raise RecordError("'sites' must be a list of dictionaries")
    numbers = np.array([_species(index, site) for index, site in enumerate(sites)], dtype=np.int64)
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    if lattice is not None:
        cell = read_lattice(lattice)
        flags = lattice.get("pbc") if isinstance(lattice, Mapping) else None
        pbc = np.ones(3, dtype=bool) if flags is None else read_flags(flags)
    return Geometry(numbers, _site_positions(sites, cell), cell, pbc)


def _site_positions(sites: Sequence[Mapping[str, Any]], cell: np.ndarray) -> np.ndarray:
    found = {
        key: vectors(key, [site[key] for site in sites])
        for key in ("abc", "xyz")
        if all(site.get(key) is not None for site in sites)
    }
    if "abc" not in found or not cell.any():
        if "xyz" not in found:
            raise RecordError("a site has neither 'abc' with a lattice nor 'xyz'")
        return found["xyz"]
    positions = cartesian(found["abc"], cell)
    if "xyz" in found:
        difference = positions - found["xyz"]
        difference -= np.round(difference @ np.linalg.pinv(cell)) @ cell  # of the same cell or not
        worst = np.abs(difference).max(initial=0)
        if worst > _AGREE:
            raise RecordError(
                f"'abc' and 'xyz' of a site are {worst:.3g} Å apart: one of them, or the lattice, "
                "was changed without the other"
            )
    return positions


def _species(index: int, site: Mapping[str, Any]) -> int:
    species = site.get("species")
    if species is None:
        species = site.get("label", "")
    if isinstance(species, Mapping):
        species = [{"element": element, "occu": occu} for element, occu in species.items()]
    if isinstance(species, str):
        species = [species]
    if not isinstance(species, (list, tuple)) or not species:
        raise RecordError(f"site {index} has species {str(species)[:60]!r}, expected a list")
    pairs = []
    for kind in species:
        kind = kind if isinstance(kind, Mapping) else {"element": kind, "occu": 1.0}
        try:
            occupancy = float(kind.get("occu", 1.0))
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"site {index}: 'occu' is {str(kind.get('occu'))[:40]!r}") from error
        pairs.append((str(kind.get("element", "")), occupancy))
    return _one_element(index, pairs)


def _one_element(index: int, pairs: Sequence[tuple[str, float]]) -> int:
    """Returns the element that fills a site; its ions may share it (``Fe2+:0.5, Fe3+:0.5``)."""
    try:
        numbers = {atomic_number(symbol) for symbol, _ in pairs}
    except RecordError as error:
        raise RecordError(f"site {index}: {error}") from error
    if len(numbers) == 1 and abs(sum(occupancy for _, occupancy in pairs) - 1) <= _FULL:
        return numbers.pop()
    text = ", ".join(f"{symbol}:{occupancy:g}" for symbol, occupancy in pairs)
    raise RecordError(f"site {index} is not fully occupied by one element: {text[:100]}")
