"""Files that users bring and nobody can use, one maker for each kind of trouble.

Each maker writes into a folder and returns the path; ``CASES`` says which recipe reads it, what the
error must say, and whether skipping bad records leaves good ones.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = "epitaxy.data.sources"
_FRAME = """2
Lattice="{lattice}" Properties=species:S:1:pos:R:3:forces:R:3 id={id} {labels}
{first} 0 0 0 0.1 0 0
Cl {position} 2 2 {force} 0 0
"""
FRAME = _FRAME.replace("{labels}", 'energy={energy} stress="{stress}"')
GOOD = {
    "lattice": "4 0 0 0 4 0 0 0 4",
    "energy": "-6.5",
    "stress": "0.01 0 0 0 0.01 0 0 0 0.01",
    "first": "Na",
    "position": "2",
    "force": "-0.1",
}
XYZ: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.extxyz.ExtendedXyz", "id_keys": ["id"]},
    "fields": {
        "energy": {"key": "energy", "unit": "eV"},
        "forces": {"key": "forces", "unit": "eV/Å", "per_atom": True},
        "stress": {"key": "stress", "unit": "eV/Å^3", "sign": "tension_positive"},
    },
}
JSON: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.json_entries.JsonEntries", "id": "jid"},
    "fields": {"gap": {"key": "gap", "unit": "eV"}},
}
TABLE: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.csv_table.CsvTable", "id": "id", "structure": "cif"},
    "fields": {"gap": {"key": "gap", "unit": "eV"}},
}
FORMULAS: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.csv_table.CsvTable", "composition": "formula"},
    "fields": {"gap": {"key": "gap", "unit": "eV"}},
}
FOLDER: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.structure_folder.StructureFolder"},
    "fields": {"gap": {"key": "1", "unit": "eV"}},
}
PICKLE: dict[str, Any] = {"source": {"_target_": f"{SOURCES}.pickle_entries.PickleEntries"}}
LMDB: dict[str, Any] = {"source": {"_target_": f"{SOURCES}.lmdb_entries.LmdbEntries"}}
DATABASE: dict[str, Any] = {"source": {"_target_": f"{SOURCES}.ase_db.AseDb"}}
MATBENCH: dict[str, Any] = {
    "source": {"_target_": f"{SOURCES}.matbench_json.MatbenchJson"},
    "fields": {"gap": {"key": "gap", "unit": "eV"}},
}
VASP: dict[str, Any] = {"source": {"_target_": f"{SOURCES}.vasp.VaspRuns"}}

CIF = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 {occupancy}
Cl1 Cl 0.5 0.5 0.5 1
"""
ATOMS = {
    "lattice_mat": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
    "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
    "elements": ["Cs", "Cl"],
    "cartesian": False,
}


@dataclass(frozen=True)
class Case:
    """A kind of trouble.

    Attributes:
        make: Writes the file into a folder and returns its path.
        recipe: How it is read.
        message: What the error must say (a regular expression).
        kept: Records that skipping leaves; ``None`` if the file as a whole is unusable.
    """

    make: Callable[[Path], Path]
    recipe: dict[str, Any]
    message: str
    kept: int | None = None


def frames(*changes: dict[str, str], name: str = "a.xyz") -> Callable[[Path], Path]:
    """Frames of rock salt with changes; the first one is good."""

    def make(folder: Path) -> Path:
        texts = [FRAME.format(**GOOD, id="f0")]
        texts += [FRAME.format(**{**GOOD, "id": f"f{n}", **c}) for n, c in enumerate(changes, 1)]
        return written(folder / name, "".join(texts).encode())

    return make


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    return lambda folder: written(folder / name, content)


def entries(*changed: Any) -> Callable[[Path], Path]:
    """A JSON list whose first entry is good."""
    listed = [{"jid": "e0", "gap": 1.0, "atoms": ATOMS}, *changed]
    return raw("a.json", json.dumps(listed).encode())


def entry(**changes: Any) -> dict[str, Any]:
    return {"jid": "e1", "gap": 1.0, "atoms": ATOMS} | changes


def atoms(**changes: Any) -> dict[str, Any]:
    return entry(atoms=ATOMS | changes)


def table(*rows: tuple[str, ...], header: tuple[str, ...] = ("id", "gap", "cif")) -> Any:
    def make(folder: Path) -> Path:
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
        return written(folder / "a.csv", stream.getvalue().encode())

    return make


def folder(listing: str, **files: str) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        path = parent / "cifs"
        path.mkdir()
        (path / "id_prop.csv").write_text(listing)
        for name, text in files.items():
            (path / f"{name}.cif").write_text(text)
        return path

    return make


def truncated_gzip(parent: Path) -> Path:
    # Random ids and energies, so that the compressed file is long enough to be cut.
    texts = [FRAME.format(**{**GOOD, "energy": str(-k * 0.7391)}, id=f"f{k}") for k in range(3000)]
    path = written(parent / "a.xyz.gz", "".join(texts).encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def gzip_bomb(parent: Path) -> Path:
    path = parent / "a.json.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(b"[")
        for _ in range(400):
            stream.write(b" " * (1 << 20))
    return path


def tar_bomb(parent: Path) -> Path:
    path = parent / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifs/big.cif")
        member.size = 300 << 20
        archive.addfile(member, _Zeros(member.size))
    return path


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        count = min(self._left, size)
        self._left -= count
        return bytes(count)


def escaping_tar(parent: Path) -> Path:
    path = parent / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("id_prop.csv", b"x,1\n"), ("../escaped.cif", CIF.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def forbidden_pickle(parent: Path) -> Path:
    """A pickle that would make a file if it were run."""
    command = f"touch {parent / 'touched'}"
    text = f"cos\nsystem\n(S'{command}'\ntR."
    return written(parent / "a.p", text.encode())


def forbidden_lmdb(parent: Path) -> Path:
    import lmdb

    path = parent / "a.lmdb"
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 20)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", b"cbuiltins\neval\n(S'1+1'\ntR.")
    os.unlink(f"{path}-lock")
    return path


def damaged_lmdb(parent: Path) -> Path:
    path = forbidden_lmdb(parent)
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(4096))
    return path


def sqlite_without_systems(parent: Path) -> Path:
    path = parent / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table other (x integer)")
    return path


def two_in_a_zip(parent: Path) -> Path:
    path = parent / "a.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.json", "[]")
        archive.writestr("two.json", "[]")
    return path


def split_table(**changes: Any) -> Callable[[Path], Path]:
    content = {"index": [0], "columns": ["structure", "gap"], "data": [[ATOMS, 1.0]]} | changes
    return raw("a.json", json.dumps(content).encode())


def empty_folder(parent: Path) -> Path:
    path = parent / "runs"
    path.mkdir()
    return path


def broken_vasprun(parent: Path) -> Path:
    path = empty_folder(parent)
    (path / "vasprun.xml").write_text('<?xml version="1.0"?><modeling><generator>')
    return path


CASES: dict[str, Case] = {
    # the file as a whole
    "empty file": Case(raw("a.xyz", b""), XYZ, "no usable record"),
    "empty JSON": Case(raw("a.json", b""), JSON, r"a\.json.*JSON"),
    "empty list": Case(raw("a.json", b"[]"), JSON, "no usable record"),
    "missing file": Case(lambda folder: folder / "none.xyz", XYZ, "there is no file"),
    "a folder for a file": Case(empty_folder, XYZ, "is a folder, expected a file"),
    "truncated frame": Case(
        raw("a.xyz", FRAME.format(**GOOD, id="f0").encode()[:-40]), XYZ, "ends inside frame 0"
    ),
    "truncated gzip": Case(truncated_gzip, XYZ, r"cut off"),
    "truncated JSON": Case(raw("a.json", b'[{"jid": 1}, {"ji'), JSON, "after 1 entries"),
    "binary noise": Case(raw("a.xyz", bytes(range(256)) * 4), XYZ, "not UTF-8|expected a number"),
    "wrong encoding": Case(
        raw("a.csv", "id,gap,cif\nä,1,x\n".encode("latin-1")), TABLE, "not UTF-8.*iconv"
    ),
    "UTF-16": Case(raw("a.csv", "id,gap,cif\n".encode("utf-16")), TABLE, "not UTF-8"),
    "not gzip": Case(lambda f: _plain(f / "a.xyz.gz", b"2\n"), XYZ, "damaged.*[Nn]ot a gzip"),
    "gzip bomb": Case(gzip_bomb, JSON, "expands to more than.*bomb"),
    "tar bomb": Case(tar_bomb, FOLDER, "expands to more than.*bomb"),
    "tar that escapes": Case(escaping_tar, FOLDER, "neither a folder nor a readable tar|outside"),
    "not a tar": Case(raw("a.tar", b"x" * 600), FOLDER, "readable archive"),
    "two files in a zip": Case(two_in_a_zip, JSON, "holds 2 files"),
    "missing column": Case(
        table(("a", "1", CIF), header=("id", "Gap", "cif")), TABLE, "no column 'gap'.*'Gap'|Gap"
    ),
    "column twice": Case(
        table(("a", "1", "2"), header=("id", "gap", "gap")), TABLE, "two columns 'gap'"
    ),
    "no table in the folder": Case(empty_folder, FOLDER, r"holds no id_prop\.csv"),
    "columns of another table": Case(split_table(columns=["x"]), MATBENCH, "does not fit|columns"),
    "more rows than names": Case(split_table(index=[]), MATBENCH, "index"),
    "no database": Case(raw("a.db", b"x" * 2048), DATABASE, "no ASE database"),
    "another database": Case(sqlite_without_systems, DATABASE, "no ASE database"),
    "no LMDB": Case(raw("a.lmdb", b"x" * 9000), LMDB, r"a\.lmdb"),
    "damaged LMDB": Case(damaged_lmdb, LMDB, r"a\.lmdb"),
    "pickle that runs a command": Case(forbidden_pickle, PICKLE, r"(os|posix)\.?system|system"),
    "truncated pickle": Case(raw("a.p", b"\x80\x04\x95\xff\x00\x00"), PICKLE, r"a\.p"),
    "LMDB that evaluates": Case(forbidden_lmdb, LMDB, "eval"),
    "no VASP run": Case(empty_folder, VASP, "holds no vasprun"),
    "unfinished VASP run": Case(broken_vasprun, VASP, "cut off or damaged|cannot be read"),
    # single records
    "NaN energy": Case(frames({"energy": "NaN"}), XYZ, r"frame 1.*'energy'.*NaN", 1),
    "infinite force": Case(frames({"force": "inf"}), XYZ, r"frame 1.*'forces'.*infinity", 1),
    "overflowing number": Case(frames({"energy": "1e999"}), XYZ, r"frame 1.*energy", 1),
    "text for a number": Case(frames({"energy": "high"}), XYZ, r"frame 1.*'energy'", 1),
    "mixed units": Case(frames({"energy": '"-6.5 eV"'}), XYZ, r"frame 1.*'energy'", 1),
    "NaN position": Case(frames({"position": "nan"}), XYZ, r"frame 1.*positions.*NaN", 1),
    "unknown element": Case(frames({"first": "Xx"}), XYZ, r"frame 1.*unknown element 'Xx'", 1),
    "asymmetric stress": Case(
        frames({"stress": "1 2 0 0 1 0 0 0 1"}), XYZ, r"frame 1.*not symmetric", 1
    ),
    "five stress numbers": Case(frames({"stress": "1 2 3 4 5"}), XYZ, r"frame 1.*shape \(5,\)", 1),
    "singular cell": Case(frames({"lattice": "4 0 0 8 0 0 0 0 4"}), XYZ, r"span no volume", 1),
    "zero cell": Case(frames({"lattice": "0 0 0 0 0 0 0 0 0"}), XYZ, r"span no volume", 1),
    "tiny cell": Case(
        frames({"lattice": "0.01 0 0 0 0.01 0 0 0 0.01", "position": "0.005"}),
        XYZ,
        r"frame 1|record 1",
        1,
    ),
    "atoms that coincide": Case(
        frames({"position": "0", "lattice": "2 0 0 0 2 0 0 0 2"}), XYZ, r"Å apart.*listed twice", 1
    ),
    "duplicate id": Case(frames({"id": "f0"}), XYZ, r"'f0' occurs twice: first in .*record 0", 1),
    "zero atoms": Case(
        entries(atoms(coords=[], elements=[])), JSON, r"entry 1.*at least one atom", 1
    ),
    "fewer elements than coordinates": Case(
        entries(atoms(elements=["Cs"])), JSON, r"entry 1.*shape", 1
    ),
    "ragged coordinates": Case(
        entries(atoms(coords=[[0, 0, 0], [0.5, 0.5]])), JSON, r"entry 1.*coords", 1
    ),
    "structure missing": Case(entries({"jid": "e1", "gap": 1.0}), JSON, r"entry 1", 1),
    "label missing": Case(
        entries({"jid": "e1", "atoms": ATOMS}), JSON, r"entry 1.*no 'gap'.*optional: true", 1
    ),
    "id missing": Case(entries({"gap": 1.0, "atoms": ATOMS}), JSON, r"entry 1.*'jid'", 1),
    "empty id": Case(entries(entry(jid=" ")), JSON, r"entry 1.*id|'jid'", 1),
    "entry that is text": Case(entries("text"), JSON, r"entry 1.*expected a dictionary", 1),
    "null structure": Case(entries(entry(atoms=None)), JSON, r"entry 1", 1),
    "label that is a list": Case(entries(entry(gap=[1, 2])), JSON, r"'gap'.*shape", 1),
    "partial occupancy": Case(
        table(("a", "1", CIF.format(occupancy="1")), ("b", "1", CIF.format(occupancy="0.5"))),
        TABLE,
        r"row 1.*not fully occupied",
        1,
    ),
    "broken CIF": Case(
        table(("a", "1", CIF.format(occupancy="1")), ("b", "1", "data_x\nloop_\n_atom")),
        TABLE,
        r"row 1.*cannot be read",
        1,
    ),
    "short row": Case(
        table(("a", "1", CIF.format(occupancy="1")), ("b", "1")), TABLE, r"row 1.*cells", 1
    ),
    "listed file missing": Case(
        folder("good,1\ngone,2\n", good=CIF.format(occupancy="1")),
        FOLDER,
        r"no file .?gone\.cif",
        1,
    ),
    "listed file outside": Case(
        folder("good,1\n../secret,2\n", good=CIF.format(occupancy="1")),
        FOLDER,
        "outside|no file",
        1,
    ),
    "no formula": Case(
        table(("NaCl", "1"), ("Na(Cl", "1"), header=("formula", "gap")),
        FORMULAS,
        r"row 1.*formula|bracket",
        1,
    ),
    "formula of no element": Case(
        table(("NaCl", "1"), ("Qq2", "1"), header=("formula", "gap")), FORMULAS, "row 1.*Qq", 1
    ),
}


def _plain(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
