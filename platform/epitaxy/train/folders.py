"""Folders that are either complete or not there: temporary name, fsync, manifest, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from epitaxy.errors import CheckpointError

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"


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
            shutil.rmtree(path, ignore_errors=True)


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
