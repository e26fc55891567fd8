"""LMDB files of other projects: keys in natural order, values of every kind, damage."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from ase.io.jsonio import encode

from epitaxy.errors import ConfigError, SourceError
from epitaxy.foreign.unpickle import BadValue, Limits, read_lmdb, read_pickles


def database(path: Path, values: Mapping[bytes, bytes], *, folder: bool = False) -> str:
    """Path of a new LMDB file, or of its folder."""
    environment = lmdb.open(str(path), subdir=folder, map_size=1 << 26, lock=False)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    environment.close()
    return str(path)


@pytest.fixture
def unpacked(tmp_path: Path, data_dir: Path) -> Path:
    """A copy of the OQMD sample, to be damaged."""
    path = tmp_path / "oqmd.lmdb"
    with gzip.open(data_dir / "importers" / "lmdb_oqmd.lmdb.gz") as packed, path.open("wb") as copy:
        shutil.copyfileobj(packed, copy)
    return path


def test_oqmd_sample(data_dir: Path) -> None:
    before = set(os.listdir(os.environ.get("TMPDIR", "/tmp")))
    records = list(read_lmdb(str(data_dir / "importers" / "lmdb_oqmd.lmdb.gz")))
    assert [name for name, _ in records] == [str(index) for index in range(200)]
    for _, record in records:
        numbers, cell = record["atomic_numbers"], np.array(record["cell"])
        assert np.shape(record["cart_coords"]) == (len(numbers), 3)
        assert cell.shape == (3, 3)
        assert abs(np.linalg.det(cell)) == pytest.approx(record["volume"], rel=1e-3)  # Å^3
        assert np.isfinite(record["delta_e"])
    left = set(os.listdir(os.environ.get("TMPDIR", "/tmp"))) - before
    assert not [name for name in left if name.endswith((".lmdb", ".mdb"))]


def test_alexandria_sample(data_dir: Path) -> None:
    records = dict(read_lmdb(str(data_dir / "importers" / "lmdb_alexandria.lmdb.gz")))
    assert len(records) == 98
    for record in records.values():
        atoms = len(record["structure"]["sites"])
        assert record["force"].shape == (atoms, 3)
        assert record["magmoms"].shape == (atoms,)
        assert np.isfinite(record["targets"]["regression"]["energy_total"])


def test_lips_sample_agrees_with_torch(data_dir: Path, tmp_path: Path) -> None:
    packed = data_dir / "importers" / "lmdb_lips.lmdb.gz"
    path = tmp_path / "lips.lmdb"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    records = dict(read_lmdb(str(packed)))
    assert list(records) == [str(index) for index in range(200)]
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
    with environment.begin() as transaction:
        for name in ("0", "9", "10", "199"):
            wanted = pickle.loads(transaction.get(name.encode()))
            assert wanted.keys() == records[name].keys()
            for key, value in wanted.items():
                np.testing.assert_array_equal(records[name][key], np.asarray(value))
    environment.close()
    for record in records.values():
        assert record["force"].shape == record["pos"].shape == (83, 3)
        assert np.isfinite(record["energy"])
        assert np.abs(record["force"].sum(axis=0)).max() < 0.1  # eV/Å, Newton's third law


def test_keys_in_natural_order(tmp_path: Path) -> None:
    names = ["0", "2", "9", "10", "100", "frame9", "frame10", "length", "mp-2", "mp-10"]
    value = pickle.dumps(1)
    path = database(tmp_path / "x", {name.encode(): value for name in reversed(names)})
    assert [name for name, _ in read_lmdb(path)] == names


@pytest.mark.parametrize("order", ["big", "little"])
def test_keys_that_are_numbers(tmp_path: Path, order: Any) -> None:
    keys = {index.to_bytes(8, order): pickle.dumps(index) for index in range(300)}
    keys[b"length"] = b"300"
    records = list(read_lmdb(database(tmp_path / "x", keys)))
    assert records == [*((str(index), index) for index in range(300)), ("length", 300)]


def test_pickled_and_odd_keys(tmp_path: Path) -> None:
    keys = [pickle.dumps(11), pickle.dumps("mp-3"), "Å".encode(), b"\xff\x00\x01"]
    path = database(tmp_path / "x", dict.fromkeys(keys, b"null"))
    assert [name for name, _ in read_lmdb(path)] == ["11", "0xff0001", "mp-3", "Å"]


def test_values_of_every_kind(tmp_path: Path) -> None:
    row = {"a": [1, 2.5, None], "b": "text"}
    stream = tmp_path / "tensor.pt"
    torch.save({"x": torch.ones(2)}, stream)
    legacy = tmp_path / "legacy.pt"
    torch.save({"x": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    plain = pickle.dumps(row)
    values = {
        "gzip pickle": gzip.compress(plain),
        "json": json.dumps(row).encode(),
        "pickle 0": pickle.dumps(row, 0),
        "pickle": plain,
        "zlib json": zlib.compress(json.dumps(row).encode()),
        "zlib pickle": zlib.compress(plain, 1),
        "zlib stored": zlib.compress(plain, 0),
    }
    tensors = {"legacy": legacy.read_bytes(), "zip": stream.read_bytes()}
    everything = {key.encode(): value for key, value in {**values, **tensors}.items()}
    records = dict(read_lmdb(database(tmp_path / "x", everything)))
    for name in values:
        assert records[name] == row, name
    for name in tensors:
        assert records[name]["x"].tolist() == [1, 1], name


def test_values_that_are_nothing(tmp_path: Path) -> None:
    values = {
        b"0": (b"\x01\x02\x03", "3 bytes that begin with"),
        b"1": (b"", "empty"),
        b"2": (pickle.dumps([1] * 100)[:-30], "cut off"),
        b"3": (zlib.compress(pickle.dumps(list(range(99))))[:-20], "compressed value is cut off"),
        b"4": (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard"),
        b"5": (b'{"a": 1', "no JSON"),
        b"6": (b"[" * 100_000 + b"]" * 100_000, "nested"),
        b"7": (pickle.dumps(1) + pickle.dumps(2), "follow the pickle"),
        b"8": (b'{"__ndarray__": [[2], "float64", [1]]}', "damaged"),
    }
    path = database(tmp_path / "x", {key: value for key, (value, _) in values.items()})
    records = dict(read_lmdb(path))
    for key, (_, reason) in values.items():
        bad = records[key.decode()]
        assert isinstance(bad, BadValue), key
        assert reason in str(bad.error)
        assert f"record '{key.decode()}'" in str(bad.error)


def test_rows_of_ase(tmp_path: Path) -> None:
    row = {
        "numbers": np.array([29, 29]),
        "positions": np.array([[0.0, 0, 0], [1.8, 1.8, 0]]),
        "pbc": np.array([True, True, False]),
        "symbols": np.array(["Cu", "Cu"]),
        "waves": np.array([[1 + 2j, 3 - 1j]]),
        "energy": -7.4,
    }
    values = {
        b"1": zlib.compress(encode(row).encode()),
        b"nextid": zlib.compress(b"2"),
        b"deleted_ids": zlib.compress(b"[]"),
        b"metadata": zlib.compress(b'{"made": {"__datetime__": "2020-01-02T03:04:05.000006"}}'),
        b"2": zlib.compress(b'{"__complex_ndarray__": [[1.0, 2.0], [3.0, 4.0]]}'),
    }
    path = database(tmp_path / "x.aselmdb", values)
    for decode in ("auto", "zlib_json"):
        records = dict(read_lmdb(path, decode=decode))
        assert list(records) == ["1", "2", "deleted_ids", "metadata", "nextid"]
        assert records["1"].keys() == row.keys()
        for key, wanted in row.items():
            np.testing.assert_array_equal(records["1"][key], wanted)
        assert records["1"]["positions"].dtype == np.float64
        assert records["2"].tolist() == [1 + 3j, 2 + 4j]
        assert (records["nextid"], records["deleted_ids"]) == (2, [])
        assert records["metadata"] == {"made": "2020-01-02T03:04:05.000006"}


def test_decode_narrows(tmp_path: Path) -> None:
    path = database(tmp_path / "x", {b"0": pickle.dumps(1), b"1": b"[1]"})
    (_, one), (_, bad) = read_lmdb(path, decode="pickle")
    assert (one, type(bad)) == (1, BadValue)
    (_, bad), (_, items) = read_lmdb(path, decode="zlib_json")
    assert (type(bad), items) == (BadValue, [1])
    with pytest.raises(ConfigError, match="decode"):
        read_lmdb(path, decode="json")  # type: ignore[arg-type]


def test_a_folder(tmp_path: Path) -> None:
    path = database(tmp_path / "db", {b"0": b"1"}, folder=True)
    before = {entry.name: entry.stat().st_mtime_ns for entry in Path(path).iterdir()}
    assert list(read_lmdb(path)) == [("0", 1)]
    assert {entry.name: entry.stat().st_mtime_ns for entry in Path(path).iterdir()} == before
    with pytest.raises(SourceError, match=r"without the data\.mdb .* holds db"):
        read_lmdb(str(tmp_path))


def test_a_map_larger_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 40, lock=False)
    with environment.begin(write=True) as transaction:
        transaction.put(b"0", b"1")
    environment.close()
    assert list(read_lmdb(str(path), limits=Limits(memory=1 << 29))) == [("0", 1)]


def test_an_attack_in_a_database(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, Any]:
            return os.system, (f"touch {tmp_path / 'mark'}",)

    values = {b"0": pickle.dumps(Evil()), b"1": zlib.compress(pickle.dumps([Evil()])), b"2": b"3"}
    values[pickle.dumps(Evil())] = b"4"  # the key is no name, and is not executed either
    records = list(read_lmdb(database(tmp_path / "x", values)))
    assert [isinstance(value, BadValue) for _, value in records] == [True, True, False, False]
    assert "posix.system" in str(records[1][1].error)
    assert not (tmp_path / "mark").exists()


def test_files_that_are_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.lmdb"
    for raw in (b"", b"id,energy\n", bytes(100_000)):
        path.write_bytes(raw)
        with pytest.raises(SourceError, match=r"x\.lmdb is damaged, or no LMDB file"):
            list(read_lmdb(str(path)))
    path.write_bytes(gzip.compress(bytes(10_000))[:-9])
    with pytest.raises(SourceError, match=r"x\.lmdb is cut off or damaged"):
        list(read_lmdb(str(path)))


def test_a_database_cut_off(unpacked: Path) -> None:
    raw = unpacked.read_bytes()
    unpacked.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(SourceError, match=r"oqmd\.lmdb .*(SIGBUS|SIGSEGV|damaged)"):
        list(read_lmdb(str(unpacked)))


@pytest.mark.parametrize("seed", range(4))
def test_a_database_with_flipped_bytes(unpacked: Path, seed: int) -> None:
    """Whatever the damage: an error, bad values or a plausible value, never a crash or a hang."""
    rng = np.random.default_rng(seed)
    raw = np.fromfile(unpacked, dtype=np.uint8)
    places = rng.integers(0, len(raw), [1, 20, 300, 3000][seed])
    raw[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    raw.tofile(unpacked)
    problem, records = "", []
    try:
        records = list(read_lmdb(str(unpacked), limits=Limits(seconds=30, memory=1 << 30)))
    except SourceError as error:
        problem = str(error)
    assert str(unpacked) in problem if problem else len(records) == 200


def test_a_bomb_in_a_value(tmp_path: Path) -> None:
    values = {b"0": zlib.compress(bytes(70 << 20)), b"1": b"2"}
    (_, bad), (_, good) = read_lmdb(database(tmp_path / "x", values))
    assert "1000 times its size" in str(bad.error)
    assert good == 2


def test_a_pickle_is_no_database_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(1))
    with pytest.raises(SourceError, match="no LMDB file"):
        list(read_lmdb(str(path)))
    ((_, bad),) = read_pickles(database(tmp_path / "y", {b"0": b"1"}))
    assert isinstance(bad, BadValue)
