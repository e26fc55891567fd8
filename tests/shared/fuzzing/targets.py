"""What is fed with damage, and what it may do: refuse in its own words, or be exactly right.

Each target gives one outcome per input: ``refused`` (a ``ShardError``), ``intact`` (the damage made
no difference and the answer is right), or ``consistent`` (bytes that carry a valid checksum are
another sound record). Everything else is raised: a foreign exception, a wrong answer, or memory
that an input of its size cannot need.
"""

from __future__ import annotations

import random
import resource
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing.mutations import damaged

from epitaxy.data import dataset as dataset_module
from epitaxy.data.codec import decode, encode, pack, unpack
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset, storage
from epitaxy.data.manifest import FILE_NAME, Manifest
from epitaxy.errors import ShardError
from epitaxy.graph.record import CrystalRecord, Label

Target = Callable[[random.Random], str]

ALLOWANCE = 256 * 1024
"""Bytes that a small input may cost whatever its size: exceptions, messages, caches."""
SHARD_ALLOWANCE = 64 * 2**20
"""Bytes that opening and reading a shard of some kilobytes may cost, buffers of its library too."""


class WrongAnswerError(AssertionError):
    """Damage that was taken for data."""


def make_records(count: int = 12) -> list[CrystalRecord]:
    rng = np.random.default_rng(3)
    made = []
    for index in range(count):
        atoms = int(rng.integers(1, 9))
        labels = {
            "energy": Label(float(rng.normal()), "eV", "PBE"),
            "forces": Label(rng.normal(size=(atoms, 3)), "eV/Å", "PBE", per_atom=True),
            "stress": Label(rng.normal(size=(3, 3)), "eV/Å^3"),
        }
        chosen = {name: labels[name] for name in labels if rng.random() < 0.7}
        cell = np.eye(3) * 5 + rng.normal(size=(3, 3)) * 0.2
        made.append(
            CrystalRecord(
                f"record-{index}", rng.integers(1, 90, atoms), rng.normal(size=(atoms, 3)) * 3,
                cell, labels=chosen, group=f"g{index % 3}",
            )
        )  # fmt: skip
    return made


def bounded(action: Callable[[], Any], allowance: int) -> Any:
    """Returns what ``action`` returns, unless it allocates more than ``allowance`` on the way."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        return action()
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        if peak > allowance:
            raise WrongAnswerError(f"{peak} bytes were allocated, {allowance} are plenty")


def codec_decode(records: Sequence[CrystalRecord]) -> Target:
    """Damaged records, their checksum left as it is."""
    blobs = [encode(record) for record in records]
    sound = set(blobs)

    def run(rng: random.Random) -> str:
        content = damaged(rng, blobs)
        try:
            record = bounded(lambda: decode(content), 8 * len(content) + ALLOWANCE)
        except ShardError:
            return "refused"
        if content not in sound or encode(record) != content:
            raise WrongAnswerError(f"damage was taken for the record {record.id!r}")
        return "intact"

    return run


def codec_forged(records: Sequence[CrystalRecord]) -> Target:
    """Damaged records with a checksum that was made to match: only the structure can tell."""
    blobs = [encode(record) for record in records]

    def run(rng: random.Random) -> str:
        content = bytearray(damaged(rng, blobs))
        if rng.random() < 0.5 and len(content) >= 32:
            struct.pack_into("<I", content, rng.choice((12, 16, 20)), rng.choice(
                (0, 1, rng.randrange(2**16), rng.randrange(2**32), 2**32 - 1)))  # fmt: skip
        if len(content) >= 16:
            struct.pack_into("<I", content, 12, len(content))
            crc = zlib.crc32(bytes(content[12:]), zlib.crc32(bytes(content[:8])))
            struct.pack_into("<I", content, 8, crc)
        try:
            record = bounded(lambda: decode(bytes(content)), 8 * len(content) + ALLOWANCE)
        except ShardError:
            return "refused"
        _check_shapes(record, len(content))
        return "consistent"

    return run


def _check_shapes(record: CrystalRecord, size: int) -> None:
    atoms = len(record.numbers)
    held = record.positions.nbytes + sum(label.value.nbytes for label in record.labels.values())
    per_atom = [len(label.value) for label in record.labels.values() if label.per_atom]
    shapes = record.positions.shape == (atoms, 3) and record.cell.shape == (3, 3)
    if not shapes or held > size or any(count != atoms for count in per_atom):
        raise WrongAnswerError(f"a forged record of {size} bytes holds {held} in odd shapes")


def codec_unpack(records: Sequence[CrystalRecord]) -> Target:
    """Damaged payloads of the stream; what they carry is checked record by record."""
    blobs = [encode(record) for record in records]
    payloads = [pack(blobs[:k]) for k in range(len(blobs))]
    sound = [*blobs]

    def run(rng: random.Random) -> str:
        content = damaged(rng, payloads)
        try:
            views = bounded(lambda: unpack(content), 64 * len(content) + ALLOWANCE)
            found = [decode(view) for view in views]
        except ShardError:
            return "refused"
        if any(encode(record) not in sound for record in found):
            raise WrongAnswerError("a damaged payload gave other records")
        return "intact"

    return run


def manifest(folder: Path) -> Target:
    """A damaged ``manifest.json``."""
    path = folder / FILE_NAME
    content = path.read_bytes()
    expected = Manifest.load(folder).to_json()

    def run(rng: random.Random) -> str:
        path.write_bytes(damaged(rng, [content]))
        try:
            found = bounded(lambda: Manifest.load(folder), 64 * len(content) + SHARD_ALLOWANCE)
        except ShardError:
            return "refused"
        finally:
            path.write_bytes(content)
        if found.to_json() != expected:
            raise WrongAnswerError("a damaged manifest gave another one")
        return "intact"

    return run


def data_set(folder: Path, records: Sequence[CrystalRecord]) -> Target:
    """Any file of a data set damaged; the data set is opened and read whole, as a worker does."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    paths = [path for path in paths if path.name != "skipped.jsonl"]
    contents = {path: path.read_bytes() for path in paths}
    expected = [encode(record) for record in records]

    def read() -> list[bytes]:
        dataset_module._intact.clear()  # as a new process sees it
        data = Dataset.open(folder)
        found = data.read(range(len(records)))
        data.label_table(np.arange(len(records)))
        if data.ids.tolist() != [record.id for record in records]:
            raise WrongAnswerError("damaged sidecars gave other ids")
        return found

    def run(rng: random.Random) -> str:
        path = rng.choice(paths)
        path.write_bytes(damaged(rng, [contents[path]]))
        try:
            found = bounded(read, SHARD_ALLOWANCE)
        except ShardError:
            return "refused"
        finally:
            path.write_bytes(contents[path])
        if found != expected:
            raise WrongAnswerError(f"{path.name} was damaged and gave other records")
        return "intact"

    return run


def zarr_shard(folder: Path, records: Sequence[CrystalRecord]) -> Target:
    """A Zarr shard damaged and read without its checksum, as ranges of a remote store are."""
    (shard,) = folder.glob("shard-*.zarr")
    paths = sorted(path for path in shard.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in paths}
    expected = [encode(record) for record in records]
    reader = storage("zarr")

    def run(rng: random.Random) -> str:
        path = rng.choice(paths)
        path.write_bytes(damaged(rng, [contents[path]]))
        reader._forget()
        try:
            found = bounded(lambda: reader.read_shard(shard, range(len(records))), SHARD_ALLOWANCE)
        except ShardError:
            return "refused"
        finally:
            path.write_bytes(contents[path])
        if found != expected:
            raise WrongAnswerError(f"{path.relative_to(shard)} was damaged and gave other records")
        return "intact"

    return run


def make_targets(folder: Path) -> dict[str, Target]:
    """Returns every target, its files below ``folder``."""
    records = make_records()
    for name in ("lmdb", "zarr", "bare", "manifest"):
        shutil.rmtree(folder / name, ignore_errors=True)
        kind = "zarr" if name in ("zarr", "bare") else "lmdb"
        prepare(records, folder / name, format=kind, checks="off", progress=False)
    return {
        "codec.decode": codec_decode(records),
        "codec.decode, checksum forged": codec_forged(records),
        "codec.unpack": codec_unpack(records),
        "manifest": manifest(folder / "manifest"),
        "LMDB data set": data_set(folder / "lmdb", records),
        "Zarr data set": data_set(folder / "zarr", records),
        "Zarr shard by ranges": zarr_shard(folder / "bare", records),
    }


def limit_memory(size: int) -> None:
    """Ends this process in a MemoryError beyond ``size`` bytes of address space."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
