"""A folder that appears complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from epitaxy.data.manifest import FILE_NAME
from epitaxy.data.sidecars import FOLDER as SIDECARS
from epitaxy.errors import ConfigError, ShardError

PARTIAL = "partial"
"""Ending of the folder of an import that can be taken up again: ``.NAME.partial``."""


@contextmanager
def staging(
    out: Path, *, overwrite: bool = False, worth_keeping: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Gives a temporary folder beside ``out`` and renames it to ``out`` on success.

    Everything is on disk before the rename. A lock beside ``out`` keeps two writers apart; a killed
    writer's lock is released by the system, and the next one removes what it left behind.

    Args:
        out: Folder to make.
        overwrite: Whether an existing data set may be replaced.
        worth_keeping: Asked after a failure whether the folder stays for another attempt, which is
            given the same one. Without it the folder is always new and never stays.

    Raises:
        ConfigError: If ``out`` exists or cannot be made, or another process is writing it now.
        ShardError: If the disk is full or fails while the folder is written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made: {error.strerror} ({error.filename})") from error
    with locked(out):
        _recover(out)
        _check_free(out, overwrite)
        folder = _beside(out, PARTIAL if worth_keeping else f"tmp-{os.getpid()}")
        folder.mkdir(exist_ok=worth_keeping is not None)
        with _writing(out, folder, worth_keeping or _never):
            yield folder
            sync(folder)
            _move(folder, out)


@contextmanager
def adding(out: Path, *, worth_keeping: Callable[[Path], bool]) -> Iterator[Path]:
    """Gives a folder beside the data set ``out`` for what will be added to it.

    It is removed at the end, or after a failure if it is not worth keeping.

    Raises:
        ConfigError: If another process is writing the data set now.
        ShardError: If the disk is full or fails.
    """
    with locked(out):
        folder = _beside(out, "append")
        folder.mkdir(exist_ok=True)
        with _writing(out, folder, worth_keeping):
            yield folder


@contextmanager
def _writing(out: Path, folder: Path, worth_keeping: Callable[[Path], bool]) -> Iterator[None]:
    """Removes ``folder`` unless it is worth keeping, and says what a disk that fails means."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        worth_keeping = _never  # the space is needed
        raise ShardError(
            f"{out} cannot be written: {error.strerror}; nothing was left behind. Free some space "
            "or choose another place"
        ) from error
    finally:
        if not worth_keeping(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _never(_: Path) -> bool:
    return False


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary file beside ``path`` that takes its place on success.

    Raises:
        ConfigError: If its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        temporary.touch()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(out: Path, ending: str) -> Path:
    return out.parent / f".{out.name}.{ending}"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other writers of ``out`` away.

    Raises:
        ConfigError: If one is writing it now.
    """
    path = _beside(out, "lock")
    descriptor = _lock_file(path)
    while descriptor is None:
        descriptor = _lock_file(path)
    try:
        yield
    finally:
        path.unlink()
        os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    """Returns a descriptor that holds the lock; ``None`` if the last holder has just left."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise ConfigError(
            f"{path.parent} cannot be written: {error.strerror}; choose another out="
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"another process holds {path}: it is writing this data set now; wait for it or "
            "choose another folder"
        ) from error
    if os.fstat(descriptor).st_nlink == 0:  # removed between our opening and our locking it
        os.close(descriptor)
        return None
    return descriptor


def _recover(out: Path) -> None:
    """Removes what killed writers left; puts an old data set back that was being replaced."""
    old = _beside(out, "old")
    if old.exists() and not out.exists():
        old.rename(out)
    leftovers = [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.tmp-")]
    for path in (*leftovers, old):
        shutil.rmtree(path, ignore_errors=True)


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} exists already; choose another folder, or say overwrite=true")
    if not ((out / FILE_NAME).is_file() and (out / SIDECARS).is_dir()):
        raise ConfigError(f"{out} is no prepared data set, so overwrite=true does not replace it")


def sync(folder: Path) -> None:
    """Makes sure that everything below ``folder`` is on disk."""
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move(folder: Path, out: Path) -> None:
    old = _beside(out, "old")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    for path in (old, _beside(out, PARTIAL)):
        shutil.rmtree(path, ignore_errors=True)
    descriptor = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
