"""A first look into a file that nobody has a recipe for: its keys, and a recipe to start from."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.build import locate
from epitaxy.data.sources.contract import BadRecord, PieceSource
from epitaxy.data.sources.structures import ARRAY_KEYS
from epitaxy.errors import SourceError

_SOURCES = "epitaxy.data.sources"
_COMPRESSED = {".gz", ".bz2", ".xz", ".zip"}
_BY_ENDING = {
    ".xyz": "extxyz.ExtendedXyz",
    ".extxyz": "extxyz.ExtendedXyz",
    ".csv": "csv_table.CsvTable",
    ".db": "ase_db.AseDb",
    ".aselmdb": "ase_lmdb.AseLmdb",
    ".lmdb": "lmdb_entries.LmdbEntries",
    ".mdb": "lmdb_entries.LmdbEntries",
    ".p": "pickle_entries.PickleEntries",
    ".pkl": "pickle_entries.PickleEntries",
    ".pickle": "pickle_entries.PickleEntries",
    ".tar": "structure_folder.StructureFolder",
    ".tgz": "structure_folder.StructureFolder",
    ".xml": "vasp.VaspRuns",
    ".jsonl": "json_entries.JsonEntries",
    ".ndjson": "json_entries.JsonEntries",
}
_GUESSES = {
    "energy": ("energy", "total_energy", "uncorrected_total_energy", "free_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress", "stresses", "virial_stress", "virial"),
}
_DRAFT_LINES = {
    "energy": "{{key: {key}, unit: '???', scheme: '???'}}  # eV or eV/atom? which functional?",
    "forces": "{{key: {key}, unit: eV/Å, per_atom: true, scheme: '???'}}",
    "stress": "{{key: {key}, unit: '???', sign: '???', scheme: '???'}}  # kbar or eV/Å^3? VASP: "
    "compression_positive, ASE: tension_positive",
}
_NOT_LABELS = {name for names in ARRAY_KEYS.values() for name in names} | {
    "id", "jid", "material_id", "mp_id", "number", "num_atoms", "natoms", "n_sites", "index",
}  # fmt: skip
_SHOWN = 60
_DEEP = 4


@dataclass(frozen=True)
class Survey:
    """What a look into a file found.

    Attributes:
        source: ``_target_`` of the source that reads it.
        arguments: Further arguments of the source.
        keys: Path of every value in the first record, with what stands there.
        draft: Text of a recipe to start from; ``???`` marks what only you can know.
    """

    source: str
    arguments: Mapping[str, Any]
    keys: Mapping[str, str]
    draft: str


def survey(path: str) -> Survey:
    """Returns what the first record of a file or folder holds.

    Raises:
        SourceError: If the file is of no kind that a source reads, or cannot be read.
    """
    target, arguments = _guess(path)
    entry = _first_entry(path, target, arguments)
    if target.endswith("JsonEntries") and "levels" not in arguments:
        levels = _levels(entry)
        if levels:
            arguments = {**arguments, "levels": 1 + levels}
            entry = _first_entry(path, target, arguments)
    keys = dict(list(_flatten(entry))[:_SHOWN])
    return Survey(f"{_SOURCES}.{target}", arguments, keys, _draft(target, arguments, entry, keys))


def _guess(path: str) -> tuple[str, dict[str, Any]]:
    file = Path(path)
    if file.is_dir():
        return _guess_folder(file)
    if not file.exists():
        raise SourceError(f"there is no file {path!r}")
    endings = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in _COMPRESSED]
    ending = endings[-1] if endings else ""
    if ending == ".json":
        return _guess_json(path)
    if ending == ".csv":
        return _BY_ENDING[ending], _csv_arguments(path)
    if ending in _BY_ENDING:
        return _BY_ENDING[ending], {}
    raise SourceError(
        f"{path}: no source reads files ending with {ending or 'nothing'!r}; known endings: .json, "
        f"{', '.join(sorted(_BY_ENDING))}; a recipe can name any source for it"
    )


def _guess_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    if any(folder.rglob("vasprun*.xml*")) or any(folder.rglob("OUTCAR*")):
        return "vasp.VaspRuns", {}
    if (folder / "data.mdb").exists():
        return "lmdb_entries.LmdbEntries", {}
    tables = sorted(path.name for path in folder.glob("*.csv"))
    table = "id_prop.csv" if "id_prop.csv" in tables else (tables[0] if tables else "")
    for pattern, file in (("*.cif", "{0}.cif"), ("*.vasp", "{0}"), ("*.json", "{0}.json")):
        if any(folder.glob(pattern)):
            return "structure_folder.StructureFolder", {"table": table, "file": file}
    raise SourceError(f"{folder} holds no CIF, POSCAR (.vasp), JSON, vasprun.xml, OUTCAR or LMDB")


def _guess_json(path: str) -> tuple[str, dict[str, Any]]:
    from epitaxy.data.sources.files import open_text

    with open_text(path) as stream:
        head = stream.read(4096)
    if re.match(r'\s*\{\s*"(index|columns)"\s*:\s*\[', head):
        return "matbench_json.MatbenchJson", {}
    if head.lstrip().startswith("{") and '"unique_id"' in head and '"ctime"' in head:
        return "ase_db.AseDb", {}
    return "json_entries.JsonEntries", {}


def _csv_arguments(path: str) -> dict[str, Any]:
    """Returns which column of a table is a composition, if none is a structure."""
    from epitaxy.data.sources.entries import STRUCTURE_KEYS
    from epitaxy.data.sources.files import open_text

    with open_text(path) as stream:
        header = next(csv.reader(stream), [])
    if set(header) & set(STRUCTURE_KEYS):
        return {}
    found = [name for name in ("formula", "composition") if name in header]
    return {"composition": found[0]} if found else {}


def _first_entry(path: str, target: str, arguments: Mapping[str, Any]) -> Any:
    source: PieceSource = locate(f"{_SOURCES}.{target}")({}, **arguments)
    for piece in source.pieces(path):
        if isinstance(piece, BadRecord):
            raise SourceError(f"{piece.where}: {piece.error}")
        content = piece.content
        if target.endswith("ExtendedXyz"):
            from epitaxy.data.sources.extxyz import describe_frame

            return describe_frame(*content)
        return content[1]
    raise SourceError(f"{path} holds no record")


def _levels(entry: Any) -> int:
    """Returns how much deeper the entries lie: dictionaries of dictionaries without a structure."""
    deeper = 0
    while isinstance(entry, Mapping) and entry and deeper < _DEEP:
        values = list(entry.values())
        if not all(isinstance(value, Mapping) for value in values):
            return deeper
        if {"sites", "lattice", "lattice_mat"} & set(entry):
            return deeper
        entry, deeper = values[0], deeper + 1
    return 0


def _flatten(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and depth < _DEEP:
        structure = {"sites", "lattice_mat"} & set(value)
        if structure and path:
            yield path, f"structure of {len(value.get('sites', value.get('elements', ())))} atoms"
            return
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key), depth + 1)
    else:
        yield path, _describe(value)


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        try:
            array = np.asarray(value)
        except ValueError:
            return f"list of {len(value)}"
        if array.dtype != object:
            shape = "×".join(map(str, array.shape)) or "1"
            return f"{shape} of {array.dtype.name.rstrip('0123456789')}"
        return f"list of {len(value)}"
    text = " ".join(str(value).split())
    return f"{type(value).__name__} {text[:50]}{'…' if len(text) > 50 else ''}"


def _draft(target: str, arguments: Mapping[str, Any], entry: Any, keys: Mapping[str, str]) -> str:
    lines = ["description: '???'", "source:", f"  _target_: {_SOURCES}.{target}"]
    lines += [f"  {name}: {_yaml(value)}" for name, value in arguments.items()]
    if arguments.get("levels"):
        lines.append('  id: "{key}"')
    for name in ("material_id", "mp_id", "jid", "id") if not arguments.get("levels") else ():
        if isinstance(entry, Mapping) and name in entry and not target.endswith("ExtendedXyz"):
            lines.append(f"  id: {name}")
            break
    lines.append("fields:")
    leaves = {path: path.rpartition(".")[2] for path in keys}
    taken = set()
    for label, names in _GUESSES.items():
        found = [path for name in names for path, leaf in leaves.items() if leaf == name]
        found.sort(key=lambda path: path.count("."))  # the least nested first
        if found:
            taken.add(found[0])
            lines.append(f"  {label}: {_DRAFT_LINES[label].format(key=_yaml(found[0]))}")
    for path, text in keys.items():
        if path not in taken and leaves[path] not in _NOT_LABELS and _is_number(text):
            lines.append(f"  {_label(path)}: {{key: {_yaml(path)}, unit: '???'}}")
    return "\n".join([*lines, "licence: '???'", "citation: '???'", ""])


def _is_number(description: str) -> bool:
    kind, _, text = description.partition(" ")
    if kind in ("float", "int"):
        return True
    try:  # a cell of a table
        return kind == "str" and math.isfinite(float(text))
    except ValueError:
        return False


def _label(path: str) -> str:
    text = "".join(c if c.isalnum() or c in "_.-" else "_" for c in path)
    return text if text[:1].isalpha() else f"x{text}"


def _yaml(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    text = str(value)
    plain = text.replace("_", "").replace(".", "").replace("/", "").isalnum()
    return text if plain and not text[:1].isdigit() else f'"{text}"' if text else '""'
