"""Crystal structures in the notations that several sources share, as plain arrays."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from epitaxy.data.sources.paths import find, first_present
from epitaxy.errors import RecordError
from epitaxy.graph.symbols import atomic_number

logger = logging.getLogger(__name__)

_PREFIX = "Issues encountered while parsing CIF: "
_HARMLESS = ("rounded to ideal values", "Skipping relative stoichiometry check")

ARRAY_KEYS: dict[str, tuple[str, ...]] = {
    "numbers": ("numbers", "atomic_numbers", "atomic_number", "Z", "z", "atom_types"),
    "elements": ("elements", "species", "symbols", "atoms"),
    "positions": ("positions", "pos", "cart_coords", "coords_cart", "xyz"),
    "fractional": ("frac_coords", "fractional", "scaled_positions", "frac_pos", "coords_frac"),
    "cell": ("cell", "lattice", "lattice_mat", "lattice_vectors", "box"),
    "pbc": ("pbc", "periodic"),
}
"""Names under which structures given as bare arrays are usually found."""


class Geometry(NamedTuple):
    """A structure as arrays, in the order in which ``CrystalRecord`` takes them.

    Attributes:
        numbers: Atomic numbers, (atoms,).
        positions: Cartesian, Å, (atoms, 3).
        cell: Lattice vectors as rows, Å, (3, 3).
        pbc: Whether each lattice vector is periodic, (3,).
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray = np.ones(3, dtype=bool)


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
    if "sites" in value:
        return parse_pymatgen(value)
    return parse_arrays(value, {})


def _parse_text(text: str, where: str, notation: str) -> Geometry:
    if notation == "json" or (not notation and text.lstrip()[:1] in ("{", "[")):
        return _parse_json(text, where)
    if notation == "poscar" or (not notation and "_cell_length_a" not in text):
        return parse_poscar(text)
    return parse_cif(text, where)


def _parse_json(text: str, where: str) -> Geometry:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise RecordError(f"the structure is malformed JSON: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("1"), Mapping):
        content = content["1"]  # a file that ase.io wrote: one row of a JSON database
    return parse_structure(decode_arrays(content), where)


def decode_arrays(value: Any) -> Any:
    """Returns ``value`` with the arrays of ASE's JSON (``__ndarray__``) as arrays.

    Raises:
        RecordError: If an array's shape and data disagree.
    """
    if isinstance(value, Mapping):
        if "__ndarray__" in value:
            try:
                shape, dtype, data = value["__ndarray__"]
                return np.array(data, dtype=np.dtype(str(dtype))).reshape(shape)
            except (TypeError, ValueError) as error:
                raise RecordError(f"a JSON array is malformed: {error}") from error
        if "__ase_objtype__" in value and "array" in value:
            return decode_arrays(value["array"])
        return {key: decode_arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode_arrays(item) for item in value]
    return value


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

    poscar, caught = _quietly("POSCAR", lambda: Poscar.from_str(text, default_names=None))
    invented = [line for line in caught if "Elements in POSCAR cannot be determined" in line]
    if invented:
        raise RecordError("the POSCAR has no line of element symbols (VASP 4): add one")
    return from_pymatgen(poscar.structure)


def _quietly(kind: str, parse: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Returns what ``parse`` gives and the lines it warned with."""
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
    return parsed, [line for text in texts for line in text.splitlines()]


def from_pymatgen(structure: Any) -> Geometry:
    """Returns a pymatgen ``Structure`` or ``Molecule`` as arrays.

    Raises:
        RecordError: If a site is not fully occupied by one element.
    """
    for site in structure:
        if not site.is_ordered:
            raise RecordError(f"a site is not fully occupied by one element: {site.species_string}")
    numbers = np.array([site.specie.Z for site in structure])
    positions = np.array(structure.cart_coords)
    lattice = getattr(structure, "lattice", None)
    if lattice is None:
        return Geometry(numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))
    return Geometry(numbers, positions, np.array(lattice.matrix), np.array(lattice.pbc))


def parse_jarvis(atoms: Any) -> Geometry:
    """Returns the crystal in a JARVIS ``atoms`` dictionary.

    ``coords`` are fractional unless ``cartesian`` is true.

    Raises:
        RecordError: If a key is missing or the arrays do not fit together.
    """
    if not isinstance(atoms, Mapping):
        raise RecordError(f"'atoms' is {str(atoms)[:60]!r}, expected a dictionary")
    for key in ("lattice_mat", "coords", "elements"):
        if key not in atoms:
            raise RecordError(f"'atoms' has no {key!r}, only {', '.join(sorted(atoms))}")
    numbers = _numbers(atoms["elements"])
    cell = _array("lattice_mat", atoms["lattice_mat"], (3, 3))
    coordinates = _array("coords", atoms["coords"], (-1, 3))
    return Geometry(numbers, coordinates if atoms.get("cartesian") else coordinates @ cell, cell)


def parse_pymatgen(structure: Mapping[str, Any]) -> Geometry:
    """Returns the crystal in the dictionary of a pymatgen ``Structure``, of any version.

    Raises:
        RecordError: If a key is missing or a site is not fully occupied by one element.
    """
    lattice = structure.get("lattice")
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    if lattice is not None:
        cell = _lattice(lattice)
        flags = lattice.get("pbc") if isinstance(lattice, Mapping) else None
        pbc = np.ones(3, dtype=bool) if flags is None else np.array(flags, dtype=bool)
    sites = structure["sites"]
    if not isinstance(sites, (list, tuple)) or not all(isinstance(s, Mapping) for s in sites):
        raise RecordError("'sites' must be a list of dictionaries")
    numbers = np.array([_species(index, site) for index, site in enumerate(sites)], dtype=np.int64)
    if all("xyz" in site for site in sites):
        positions = _array("xyz", [site["xyz"] for site in sites], (-1, 3))
    elif all("abc" in site for site in sites):
        positions = _array("abc", [site["abc"] for site in sites], (-1, 3)) @ cell
    else:
        raise RecordError("a site has neither 'xyz' nor 'abc'")
    return Geometry(numbers, positions, cell, pbc)


def _lattice(lattice: Any) -> np.ndarray:
    if not isinstance(lattice, Mapping):
        return _array("lattice", lattice, (3, 3))
    if "matrix" in lattice:
        return _array("lattice.matrix", lattice["matrix"], (3, 3))
    from pymatgen.core import Lattice

    try:
        sizes = [float(lattice[key]) for key in ("a", "b", "c", "alpha", "beta", "gamma")]
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError("'lattice' has neither a matrix nor lengths and angles") from error
    return np.array(Lattice.from_parameters(*sizes).matrix)


def _species(index: int, site: Mapping[str, Any]) -> int:
    species = site.get("species")
    if species is None:
        return atomic_number(str(site.get("label", "")))
    if isinstance(species, Mapping):
        species = [{"element": element, "occu": occu} for element, occu in species.items()]
    if not isinstance(species, Sequence) or isinstance(species, str) or not len(species):
        return atomic_number(str(species))
    first = species[0] if isinstance(species[0], Mapping) else {"element": species[0]}
    if len(species) > 1 or abs(float(first.get("occu", 1.0)) - 1.0) > 1e-6:
        text = ", ".join(f"{s.get('element')}:{s.get('occu')}" for s in species)
        raise RecordError(f"site {index} is not fully occupied by one element: {text}")
    return atomic_number(str(first["element"]))


def parse_arrays(value: Mapping[str, Any], names: Mapping[str, str]) -> Geometry:
    """Returns the structure given as bare arrays, under ``names`` or those of ``ARRAY_KEYS``.

    Lists, numpy arrays and whatever else numpy reads are fine, with an axis of length one too
    many, as batches of one have it. Without a cell nothing is periodic; without ``pbc`` everything
    that has a lattice vector is.

    Raises:
        RecordError: If numbers or positions are absent, or shapes make no sense.
    """
    for name in names:
        if name not in ARRAY_KEYS:
            raise RecordError(f"arrays: {name!r} is none of {', '.join(ARRAY_KEYS)}")

    def get(name: str) -> Any:
        if name in names:
            return find(value, names[name])
        return first_present(value, ARRAY_KEYS[name])

    raw_cell, raw_pbc = get("cell"), get("pbc")
    cell = np.zeros((3, 3)) if raw_cell is None else _cell(raw_cell)
    numbers = _numbers(get("numbers") if get("numbers") is not None else get("elements"))
    positions, fractional = get("positions"), get("fractional")
    if positions is not None and "fractional" not in names:
        positions = _array("positions", positions, (-1, 3))
    elif fractional is not None:
        positions = _array("fractional", fractional, (-1, 3)) @ cell
    else:
        raise RecordError(
            f"the structure has no positions, only {', '.join(map(str, list(value)[:20]))}; name "
            "them in the source's arrays (positions or fractional)"
        )
    pbc = cell.any(1) if raw_pbc is None else np.asarray(raw_pbc, dtype=bool).reshape(-1)
    if pbc.shape not in ((1,), (3,)):
        raise RecordError(f"'pbc' has {pbc.size} entries, expected three")
    return Geometry(numbers, positions, cell, np.broadcast_to(pbc, (3,)))


def _cell(raw: Any) -> np.ndarray:
    if isinstance(raw, Mapping):
        return _lattice(raw)
    array = _array("cell", raw, None)
    if array.size == 3:
        return np.diag(array.reshape(3))
    return _array("cell", array, (3, 3))


def _numbers(raw: Any) -> np.ndarray:
    if raw is None:
        raise RecordError(
            "the structure names no elements; name them in the source's arrays (numbers or "
            "elements)"
        )
    values = list(np.asarray(raw).reshape(-1).tolist())
    if all(isinstance(value, str) for value in values):
        return np.array([atomic_number(value) for value in values], dtype=np.int64)
    numbers = _array("numbers", values, (-1,))
    if np.any(numbers != np.round(numbers)):
        raise RecordError("an atomic number is no whole number")
    return numbers.astype(np.int64)


def _array(name: str, raw: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        array = np.asarray(raw, dtype=np.float64)
        return array if shape is None else array.reshape(shape)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{name!r} has a wrong form: {error}") from error
