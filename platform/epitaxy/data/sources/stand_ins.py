"""Objects of other packages as a pickle leaves them, turned into those packages' dictionaries.

``epitaxy.foreign`` gives an object as ``{"@type": "package.Class", **state}``. The layouts of many
versions of pymatgen, ASE, PyTorch Geometric and JARVIS are understood; of any other class its
state is the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from epitaxy.errors import RecordError

_DEEP = 4


def unwrap(value: Any, depth: int = 0) -> Any:
    """Returns ``value`` with stand-ins as plain dictionaries, those nested in it included.

    Lists are left alone unless they are short: a trajectory is unwrapped frame by frame.
    """
    if not isinstance(value, Mapping) or depth > _DEEP:
        return value
    kind = str(value.get("@type", ""))
    if "pymatgen" in kind and "_sites" in value:
        return structure(value)
    if kind.startswith("ase.") and "arrays" in value:
        return _atoms(value)
    if "_store" in value and isinstance(value["_store"], Mapping):
        return unwrap(value["_store"].get("_mapping", value["_store"]), depth + 1)
    return {key: unwrap(item, depth + 1) for key, item in value.items() if key != "@type"}


def structure(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dictionary of a pymatgen ``Structure`` or ``Molecule`` from its state.

    Raises:
        RecordError: If a part is missing that every version has.
    """
    sites = state["_sites"]
    if not isinstance(sites, (list, tuple)) or not all(isinstance(s, Mapping) for s in sites):
        raise RecordError("a pickled structure has no list of sites")
    plain: dict[str, Any] = {"sites": [_site(site) for site in sites]}
    lattice = state.get("_lattice")
    if lattice is None and sites:
        lattice = sites[0].get("_lattice")
    if isinstance(lattice, Mapping):
        if "_matrix" not in lattice:
            raise RecordError("a pickled lattice has no matrix")
        # Lattices written before pymatgen 2022.0.17 do not say what is periodic: everything is.
        pbc = lattice.get("_pbc") or (True, True, True)
        plain["lattice"] = {"matrix": lattice["_matrix"], "pbc": list(pbc)}
    if isinstance(state.get("_properties"), Mapping):
        plain["properties"] = state["_properties"]
    return plain


def _site(site: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {"species": _species(_first(site, "_species", "_species_and_occu"))}
    fractional = _first(site, "_frac_coords", "_fcoords")
    if fractional is not None:
        plain["abc"] = fractional
    cartesian = _first(site, "_coords", "coords")
    if cartesian is not None and fractional is None:
        plain["xyz"] = cartesian
    return plain


def _first(state: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if state.get(name) is not None:
            return state[name]
    return None


def _species(composition: Any) -> list[dict[str, Any]]:
    """Returns element and occupancy of each species of a site."""
    if isinstance(composition, Mapping):
        data = _first(composition, "_data", "_elmap")
        composition = data if data is not None else composition
    if isinstance(composition, Mapping):
        pairs = composition.get("@items")
        if pairs is None:
            pairs = [(key, value) for key, value in composition.items() if key[:1] not in "@_"]
        return [{"element": _symbol(key), "occu": float(value)} for key, value in pairs]
    raise RecordError("a pickled site names no species")


def _symbol(species: Any) -> str:
    if isinstance(species, str):
        return species
    if isinstance(species, Mapping):
        arguments = species.get("@args")
        if arguments:
            return _symbol(arguments[0])
        inner = _first(species, "_el", "_symbol", "symbol", "_value_", "@value")
        if inner is not None:
            return _symbol(inner)
    raise RecordError(f"a pickled species is {str(species)[:60]!r}, expected an element")


def _atoms(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an ASE ``Atoms`` as an entry: arrays, info, and the results of its calculator."""
    arrays = dict(state["arrays"])
    cell = _first(state, "_cellobj", "_cell", "cell")
    if isinstance(cell, Mapping):
        cell = cell.get("array")
    calculator = _first(state, "_calc", "calc") or {}
    results = calculator.get("results") if isinstance(calculator, Mapping) else None
    info = state.get("info")
    entry = {**(results or {}), **arrays, **(info if isinstance(info, Mapping) else {})}
    entry |= {"cell": np.zeros((3, 3)) if cell is None else cell}
    pbc = _first(state, "_pbc", "pbc")
    return entry if pbc is None else {**entry, "pbc": pbc}
