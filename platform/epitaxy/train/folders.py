"""Folders that are either complete or not there: temporary name, fsync, manifest, rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from epitaxy.errors import CheckpointError

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
WRITER = ".writer"
WRITER_TIMEOUT_S = 120.0
"""Ray ends the workers of a dead driver within seconds; a lost node may take longer."""


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Lets ``fill`` write files into a new folder that appears as ``folder`` only when complete.

    A folder of that name is replaced. Whenever the process dies, what is found under the name is
    a whole folder or nothing; the rest starts with ``.tmp-``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f"{TEMPORARY}{folder.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    fill(temporary)
    files = sorted(path for path in temporary.iterdir() if path.is_file())
    manifest = {path.name: _describe(path) for path in files}
    write_json(temporary / MANIFEST, manifest)
    for path in (*files, temporary):
        _fsync(path)
    if folder.exists():
        replaced = folder.parent / f"{TEMPORARY}replaced-{uuid.uuid4().hex[:8]}"
        folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced)
    else:
        temporary.rename(folder)
    _fsync(folder.parent)


def verify_folder(folder: Path) -> None:
    """Checks the length and sha256 of every file against the manifest.

    Raises:
        CheckpointError: If the folder, its manifest or a file is missing or damaged.
    """
    manifest = read_json(folder / MANIFEST)
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, although {folder / MANIFEST} lists it")
        found = _describe(path)
        if found != expected:
            raise CheckpointError(
                f"{path} is damaged: expected {expected}, found {found}. Restore it from a copy, "
                "or remove the folder"
            )


def remove_leftovers(parent: Path) -> None:
    """Removes what interrupted writes left behind in ``parent``."""
    if parent.is_dir():
        for path in parent.glob(f"{TEMPORARY}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keeps everybody else from writing in ``folder`` for the time of a ``with`` block.

    A driver that dies leaves workers behind for a moment, which may be writing a checkpoint while
    the next start already reads them. The lock dies with its holder, so it is waited for.

    Raises:
        CheckpointError: If another process holds it for longer than ``WRITER_TIMEOUT_S``.
    """
    with (folder / WRITER).open("w") as stream:
        deadline = time.monotonic() + WRITER_TIMEOUT_S
        while not _locked(stream):
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"a worker of an earlier start still writes in {folder} after "
                    f"{WRITER_TIMEOUT_S:g} s; end that process (it holds {folder / WRITER}), then "
                    "start the run again"
                )
            time.sleep(0.1)
        yield


def _locked(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Raises:
        CheckpointError: If it is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: {path.parent} is incomplete") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


def write_json(path: Path, data: Any) -> None:
    """Writes ``data`` to ``path`` through a temporary file, flushed to disk."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
