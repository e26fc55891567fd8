"""The published folder: model files, card, README and the hashes that are checked at every pull.

``model.safetensors  model.json  manifest.json  card.json  README.md  sha256.json``: a model folder
as training writes it, plus what publication adds; the same in every registry.
``origin.json`` is added to a pulled copy: where it came from, for the lineage of what grows on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from epitaxy.errors import CheckpointError, RegistryError
from epitaxy.registry.card import CARD_FILE, build_card, render_card
from epitaxy.train.folders import MANIFEST, read_json, verify_folder

MODEL_FILES = ("model.safetensors", "model.json")
README_FILE = "README.md"
HASH_FILE = "sha256.json"
ORIGIN_FILE = "origin.json"
CONTENT_FILES = (*MODEL_FILES, MANIFEST, CARD_FILE, README_FILE)

_BLOCK_BYTES = 1 << 20
_MAX_HASH_FILE_BYTES = 1 << 20


def dump(document: Mapping[str, Any]) -> bytes:
    """Returns ``document`` as the JSON text that registries store."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def digest_of(hashes: Mapping[str, Any]) -> str:
    """Returns the one hash that stands for a folder: of its files' names and hashes (hex)."""
    lines = [f"{name} {entry['sha256']}" for name, entry in sorted(hashes["files"].items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stage(folder: Path, name: str, lineage: Mapping[str, Any] | None, into: Path) -> str:
    """Writes the published form of the model ``folder`` to the empty folder ``into``.

    Returns:
        The digest of the folder.

    Raises:
        RegistryError: If ``folder`` is no intact model folder.
    """
    try:
        verify_folder(folder)
        manifest = read_json(folder / MANIFEST)
        listed = {file: manifest[file] for file in MODEL_FILES}
    except (CheckpointError, KeyError) as error:
        raise RegistryError(
            f"{folder} is no intact model folder: {error}; give the folder that training wrote, "
            "such as <run>/final"
        ) from error
    for file in MODEL_FILES:
        shutil.copyfile(folder / file, into / file)
    (into / MANIFEST).write_bytes(dump(listed))  # a checkpoint's lists the optimiser as well
    card = build_card(folder, name, lineage)
    (into / CARD_FILE).write_bytes(dump(card))
    (into / README_FILE).write_text(render_card(card), encoding="utf-8")
    files = {file: _hash_local(into / file) for file in CONTENT_FILES}
    hashes = {"format": 1, "files": files}
    (into / HASH_FILE).write_bytes(dump(hashes))
    return digest_of(hashes)


def upload(staged: Path, filesystem: fsspec.AbstractFileSystem, target: str) -> None:
    """Copies a staged folder; the hashes go last, so a cut-off copy never looks complete."""
    filesystem.makedirs(target, exist_ok=True)
    for file in CONTENT_FILES:
        filesystem.put_file(str(staged / file), f"{target}/{file}")
    write_whole(filesystem, f"{target}/{HASH_FILE}", (staged / HASH_FILE).read_bytes())


def read_hashes(filesystem: fsspec.AbstractFileSystem, location: str) -> dict[str, Any]:
    """Returns the hash file of a published folder.

    Raises:
        RegistryError: If it is missing or no hash file, or names other files than the layout's.
    """
    path = f"{location}/{HASH_FILE}"
    try:
        with filesystem.open(path, "rb") as stream:
            hashes = json.loads(stream.read(_MAX_HASH_FILE_BYTES))
        files = hashes["files"]
        if hashes["format"] != 1 or set(files) != set(CONTENT_FILES):
            raise ValueError(f"format {hashes['format']!r}, files {sorted(files)}")
        _ = [(entry["sha256"], entry["bytes"]) for entry in files.values()]
    except FileNotFoundError as error:
        raise RegistryError(f"{location} is no published model: it has no {HASH_FILE}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{path} is damaged or of a newer version: {error}") from error
    return dict(hashes)


def verify(
    filesystem: fsspec.AbstractFileSystem, location: str, digest: str, copy_to: Path | None = None
) -> None:
    """Checks every byte of a published folder, and copies it on the way if asked to.

    Raises:
        RegistryError: If the hashes are not those of ``digest``, or a file is not as hashed.
    """
    hashes = read_hashes(filesystem, location)
    if digest_of(hashes) != digest:
        raise RegistryError(
            f"{location}/{HASH_FILE} was changed after publication: its digest is "
            f"{digest_of(hashes)[:12]}…, published was {digest[:12]}…"
        )
    for file, expected in hashes["files"].items():
        found = _hash_and_copy(filesystem, f"{location}/{file}", copy_to and copy_to / file)
        if found != expected:
            raise RegistryError(
                f"{location}/{file} was changed after publication: sha256 {found['sha256'][:12]}… "
                f"({found['bytes']} bytes), published was {expected['sha256'][:12]}… "
                f"({expected['bytes']} bytes); publish it again from its run"
            )
    if copy_to:
        (copy_to / HASH_FILE).write_bytes(dump(hashes))


def write_whole(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Writes a small file so that a reader sees the old or the new one, never a part.

    Object stores do so by themselves; a local file is renamed into place.
    """
    if "file" not in filesystem.protocol:
        filesystem.pipe_file(path, data)
        return
    temporary = Path(f"{path}.{uuid.uuid4().hex}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``destination`` if the block succeeds.

    Raises:
        RegistryError: If ``destination`` exists.
    """
    if destination.exists():
        raise RegistryError(f"{destination} exists already; choose a new folder")
    temporary = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, destination)
    except OSError as error:
        raise RegistryError(f"cannot write {destination}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hash_local(path: Path) -> dict[str, Any]:
    return _hash_and_copy(fsspec.filesystem("file"), str(path), None)


def _hash_and_copy(
    filesystem: fsspec.AbstractFileSystem, path: str, copy_to: Path | None
) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    try:
        with filesystem.open(path, "rb") as stream, open(copy_to or os.devnull, "wb") as copy:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
                copy.write(block)
                size += len(block)
    except FileNotFoundError as error:
        raise RegistryError(f"{path} is missing from the registry") from error
    return {"sha256": digest.hexdigest(), "bytes": size}
