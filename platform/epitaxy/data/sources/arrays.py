"""Crystal structures as bare arrays, whatever shapes and types their numbers come in."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from epitaxy.data.sources.paths import find, first_present, printable
from epitaxy.errors import RecordError
from epitaxy.graph.symbols import SYMBOLS, atomic_number

MAX_LENGTH = 1e6
"""Å. Coordinates and lattice vectors beyond it are no crystal's."""
MAX_DEPTH = 50
"""Levels of nesting in an entry; nothing that describes a crystal has more."""

ARRAY_KEYS: dict[str, tuple[str, ...]] = {
    "numbers": ("numbers", "atomic_numbers", "atomic_number", "Z", "z", "atom_types"),
    "elements": ("elements", "species", "symbols", "species_at_sites", "atoms"),
    "positions": (
        "positions", "pos", "cart_coords", "coords_cart", "xyz", "cartesian_site_positions",
    ),
    "fractional": ("frac_coords", "fractional", "scaled_positions", "frac_pos", "coords_frac"),
    "cell": ("cell", "lattice", "lattice_mat", "lattice_vectors", "box"),
    "pbc": ("pbc", "periodic", "dimension_types"),
}  # fmt: skip
"""Names under which structures given as bare arrays are usually found."""

_DTYPE = re.compile(r"bool|u?int(8|16|32|64)?|float(16|32|64)?|[<>=|]?(b1|[iu][1248]|f[248]|U\d+)")
_TRUE = {"true", "t", "1", "1.0"}
_FALSE = {"false", "f", "0", "0.0"}


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


def parse_arrays(value: Mapping[str, Any], names: Mapping[str, str]) -> Geometry:
    """Returns the structure given as bare arrays, under ``names`` or those of ``ARRAY_KEYS``.

    Lists, numpy arrays and whatever else numpy reads are fine, with an axis of length one too
    many, as batches of one have it. Without a cell nothing is periodic; without ``pbc`` everything
    that has a lattice vector is.

    Raises:
        RecordError: If numbers or positions are absent, or shapes make no sense.
    """

    def get(name: str) -> Any:
        if name in names:
            return find(value, names[name])
        return first_present(value, ARRAY_KEYS[name])

    cell, pbc = read_cell(get("cell")), get("pbc")
    elements = get("numbers") if get("numbers") is not None else get("elements")
    if elements is None:
        raise RecordError(
            "the structure names no elements; name them in the source's arrays (numbers or "
            "elements)"
        )
    if get("positions") is not None and "fractional" not in names:
        positions = vectors("positions", get("positions"))
    elif get("fractional") is not None:
        positions = cartesian(vectors("fractional", get("fractional")), cell)
    else:
        raise RecordError(
            f"the structure has no positions, only {', '.join(map(str, list(value)[:20]))[:200]}; "
            "name them in the source's arrays (positions or fractional)"
        )
    flags = np.array(cell.any(axis=1)) if pbc is None else read_flags(pbc)
    return Geometry(read_numbers(elements), positions, cell, flags)


def cartesian(fractional: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Returns Cartesian positions in Å.

    Raises:
        RecordError: If there is no cell.
    """
    if not cell.any():
        raise RecordError("fractional coordinates need a cell, and there is none")
    return _bounded("positions", fractional @ cell)


def read_cell(raw: Any) -> np.ndarray:
    """Returns lattice vectors as rows, Å; zeros for ``None``.

    Nine numbers are the vectors, six the lengths and angles of ASE (Å, degrees; the first vector
    along x), three the lengths of a rectangular cell.

    Raises:
        RecordError: If ``raw`` is nothing of that.
    """
    if raw is None:
        return np.zeros((3, 3))
    if isinstance(raw, Mapping):
        return read_lattice(raw)
    array = floats("cell", raw)
    if array.size == 3 and array.ndim == 1:
        return _bounded("cell", np.diag(array))
    if array.size == 6 and array.ndim == 1:
        from ase.geometry import cellpar_to_cell

        return _from_parameters(array, cellpar_to_cell)
    matrix = vectors("cell", array)
    if matrix.shape != (3, 3):
        raise RecordError(f"'cell' has shape {array.shape}, expected three lattice vectors")
    return matrix


def read_lattice(lattice: Any) -> np.ndarray:
    """Returns the lattice vectors, Å, of a pymatgen ``Lattice`` dictionary, whole or in part.

    Raises:
        RecordError: If it has neither a matrix nor lengths and angles.
    """
    if not isinstance(lattice, Mapping):
        return read_cell(lattice)
    if lattice.get("matrix") is not None:
        return read_cell(lattice["matrix"])
    from pymatgen.core import Lattice  # takes a second to import

    keys = ("a", "b", "c", "alpha", "beta", "gamma")
    missing = [key for key in keys if lattice.get(key) is None]
    if missing:
        raise RecordError(
            f"'lattice' has neither a matrix nor lengths and angles: no {', '.join(missing)}"
        )
    parameters = floats("lattice", [lattice[key] for key in keys])
    return _from_parameters(parameters, lambda six: np.array(Lattice.from_parameters(*six).matrix))


def _from_parameters(parameters: np.ndarray, convert: Any) -> np.ndarray:
    """Returns the vectors of a cell of given lengths (Å) and angles (degrees), if there is one."""
    shown = ", ".join(f"{value:g}" for value in parameters)
    lengths, cosines = parameters[:3], np.cos(np.radians(parameters[3:]))
    square = 1 + 2 * cosines.prod() - (cosines**2).sum()  # of the volume of the unit rhombohedron
    if not ((lengths > 0).all() and (lengths < MAX_LENGTH).all() and square > 1e-10):
        raise RecordError(f"no cell has these lengths and angles: {shown}")
    return np.array(convert(parameters), dtype=np.float64)


def read_numbers(raw: Any) -> np.ndarray:
    """Returns the atomic numbers that numbers or symbols, or both, stand for, (atoms,).

    Raises:
        RecordError: If one is no element; the message names the atom.
    """
    if isinstance(raw, str):
        raw = literal(raw) if raw.lstrip()[:1] == "[" else re.split(r"[\s,]+", raw.strip())
    values = raw.tolist() if isinstance(raw, np.ndarray) else raw
    while isinstance(values, (list, tuple)) and len(values) == 1 and _is_list(values[0]):
        values = values[0]
    if not _is_list(values):
        raise RecordError(f"the elements are {str(raw)[:60]!r}, expected a list")
    numbers = []
    for atom, value in enumerate(values):
        try:
            numbers.append(_element(value[0] if _is_list(value) and len(value) == 1 else value))
        except RecordError as error:
            raise RecordError(f"atom {atom}: {error}") from error
    return np.array(numbers, dtype=np.int64)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _element(value: Any) -> int:
    if isinstance(value, str) and not value.strip().isdecimal():
        return atomic_number(value)
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{str(value)[:40]!r} is no element") from error
    if not (number.is_integer() and 1 <= number < len(SYMBOLS)):
        raise RecordError(f"{number:g} is no atomic number (1 to {len(SYMBOLS) - 1})")
    return int(number)


def read_flags(raw: Any) -> np.ndarray:
    """Returns three flags, of three or of one for all: ``True``, ``1``, ``T``, ``"T T F"``.

    Raises:
        RecordError: If ``raw`` is something else.
    """
    if isinstance(raw, str):
        words: list[Any] = re.sub(r"[\[\](),]", " ", raw).split()
        words = list(words[0]) if len(words) == 1 and len(words[0]) == 3 else words
    else:
        flat = raw.reshape(-1).tolist() if isinstance(raw, np.ndarray) else raw
        words = list(flat) if _is_list(flat) else [flat]
        words = list(words[0]) if len(words) == 1 and _is_list(words[0]) else words
    texts = [str(word).strip().lower() for word in words]
    if len(texts) not in (1, 3) or not set(texts) <= _TRUE | _FALSE:
        raise RecordError(f"'pbc' is {str(raw)[:60]!r}, expected three of true and false")
    return np.array([text in _TRUE for text in texts] * (3 // len(texts)))


def vectors(name: str, raw: Any) -> np.ndarray:
    """Returns rows of three numbers, (rows, 3), also from a flat list or a batch of one.

    Raises:
        RecordError: If ``raw`` has another form. Columns are not turned into rows: nothing would
            show whether that is right.
    """
    array = floats(name, raw)
    rows = array[0] if array.ndim == 3 and len(array) == 1 else array
    if rows.ndim == 1 and rows.size % 3 == 0:
        rows = rows.reshape(-1, 3)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise RecordError(f"{name!r} has shape {array.shape}, expected rows of three numbers")
    return _bounded(name, rows)


def floats(name: str, raw: Any) -> np.ndarray:
    """Returns an array of finite numbers; a text may be a JSON or Python list of them.

    Raises:
        RecordError: If something in it is no finite number.
    """
    if isinstance(raw, str):
        raw = literal(raw)
    try:
        array = np.asarray(raw)
        if array.dtype.kind in "cmMV":
            raise TypeError(f"an array of {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(
            f"{name!r} is no array of numbers: {printable(str(error), 120)}"
        ) from error
    if not np.isfinite(array).all():
        raise RecordError(f"{name!r} holds NaN or infinity")
    return array


def _bounded(name: str, array: np.ndarray) -> np.ndarray:
    largest = float(np.abs(array).max(initial=0))
    if largest > MAX_LENGTH:
        raise RecordError(f"{name!r} has {largest:.3g} Å, more than {MAX_LENGTH:g}")
    return array


def literal(text: str) -> Any:
    """Returns the list or dictionary that ``text`` writes out, as JSON or as Python.

    Raises:
        RecordError: If it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = printable(str(error), 120)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, on text that is no Python
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise RecordError(f"{text[:60]!r} is malformed: {reason}") from error


def decode_arrays(value: Any, depth: int = 0) -> Any:
    """Returns ``value`` with the arrays that ASE and monty write as JSON as arrays.

    Raises:
        RecordError: If an array's shape and data disagree, a text is no Unicode (half of a
            surrogate pair), or the nesting is deeper than ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise RecordError(f"the entry is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        if "__ndarray__" in value:
            return _ndarray(value["__ndarray__"])
        if "__ase_objtype__" in value and "array" in value:
            return decode_arrays(value["array"], depth + 1)
        if value.get("@module") == "numpy" and "data" in value:
            return _ndarray([None, value.get("dtype", "float64"), value["data"]])
        return {_text(k): decode_arrays(item, depth + 1) for k, item in value.items()}
    if isinstance(value, list):
        return [
            item if type(item) in (float, int) else decode_arrays(item, depth + 1) for item in value
        ]
    return _text(value)


def _text(value: Any) -> Any:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecordError(f"a text is no Unicode: {value[:40]!r}") from error
    return value


def _ndarray(parts: Any) -> np.ndarray:
    try:
        shape, name, data = parts
        if not _DTYPE.fullmatch(str(name)):
            raise TypeError(f"arrays of {str(name)[:20]!r} are not read")
        dtype = np.dtype(str(name))
        array = np.array(data, dtype=dtype)
        return array if shape is None else array.reshape(shape)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RecordError(f"a JSON array is malformed: {printable(str(error), 120)}") from error
