"""Shards as LMDB files: one encoded record per key, the key being the row (8 bytes, big-endian).

Handles open lazily in each process. LMDB refuses to open a file twice in one process, and a
forked child inherits the parent's list of open files, so all readers share one table of
environments per process, which a fork empties.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock

import lmdb

from epitaxy.errors import ShardError

SUFFIX = ".lmdb"
_INITIAL_BYTES = 1 << 24
_TRANSACTION_RECORDS = 1024
_MAX_OPEN = 64

_lock = Lock()
_open: OrderedDict[tuple[int, int], lmdb.Environment] = OrderedDict()


def write_shard(path: Path, first: int, blobs: Iterable[bytes]) -> int:
    """Writes encoded records as rows ``first``, ``first + 1``, …; returns how many there were."""
    environment = lmdb.open(
        str(path), subdir=False, lock=False, sync=False, map_size=_INITIAL_BYTES
    )
    row = first
    pending: list[bytes] = []
    try:
        for blob in blobs:
            pending.append(blob)
            if len(pending) == _TRANSACTION_RECORDS:
                row = _put(environment, row, pending)
                pending = []
        row = _put(environment, row, pending)
        environment.sync(True)
    finally:
        environment.close()
    return row - first


def read_shard(path: Path, rows: Sequence[int]) -> list[bytes]:
    """Returns the encoded records of ``rows`` (numbered over the data set).

    Raises:
        ShardError: If the file cannot be read or lacks a row.
    """
    found: list[bytes] = []
    with _lock:
        try:
            with _environment(path).begin() as transaction:
                for row in rows:
                    blob = transaction.get(_key(row))
                    if blob is None:
                        raise ShardError(f"{path} has no row {row}; prepare the data set again")
                    found.append(blob)
        except (lmdb.Error, OSError) as error:
            raise ShardError(f"{path} is damaged: {error}; prepare the data set again") from error
    return found


def _key(row: int) -> bytes:
    return int(row).to_bytes(8, "big")


def _put(environment: lmdb.Environment, row: int, blobs: list[bytes]) -> int:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for offset, blob in enumerate(blobs):
                    transaction.put(_key(row + offset), blob, append=True)
            return row + len(blobs)
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
        except lmdb.Error as error:  # a full disk is an "Input/output error" of LMDB
            free = shutil.disk_usage(os.path.dirname(environment.path())).free
            reason = f"{error} ({free >> 20} MiB are free there)"
            raise OSError(errno.EIO, reason, environment.path()) from error


def _environment(path: Path) -> lmdb.Environment:
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in _open:  # perhaps under another name: LMDB tells files apart as we do
        _open.move_to_end(identity)
        return _open[identity]
    name = os.path.realpath(path)
    environment = lmdb.open(name, subdir=False, readonly=True, lock=False, readahead=False)
    _open[identity] = environment
    while len(_open) > _MAX_OPEN:
        _open.popitem(last=False)[1].close()
    return environment


def _forget() -> None:
    """Runs in a forked child: lets go of what the parent had open, so that it can be reopened."""
    global _lock
    _lock = Lock()
    for environment in _open.values():
        environment.close()
    _open.clear()


os.register_at_fork(after_in_child=_forget)
