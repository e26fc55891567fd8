"""A folder of fetched shards, bounded in size and shared by all processes of a machine.

A file's name is its checksum: it appears complete and checked, or not at all. The least recently
used go first; a process that has one open keeps reading it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from epitaxy.data.manifest import FileEntry
from epitaxy.errors import ConfigError, ShardError

CACHE_BYTES = 64 * 2**30
"""Size of the cache unless ``EPITAXY_CACHE_BYTES`` or the caller says otherwise."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOUCH_S = 30.0


def cache_folder(name: str) -> Path:
    """Returns a folder for things that can be fetched again: below ``$EPITAXY_HOME``."""
    home = os.environ.get("EPITAXY_HOME") or "~/.epitaxy"
    return Path(home).expanduser().absolute() / "cache" / name


def cache_bytes() -> int:
    """Returns the size of the cache: ``EPITAXY_CACHE_BYTES``, such as 2000000000 or 20G.

    Raises:
        ConfigError: If it is no size.
    """
    text = os.environ.get("EPITAXY_CACHE_BYTES", "")
    if not text:
        return CACHE_BYTES
    number, unit = text.rstrip("Bb"), 1
    if number[-1:].upper() in _UNITS:
        number, unit = number[:-1], _UNITS[number[-1].upper()]
    try:
        size = int(float(number) * unit)
    except ValueError:
        size = 0
    if size <= 0:
        raise ConfigError(f"EPITAXY_CACHE_BYTES is {text!r}, expected a size such as 20G")
    return size


@dataclass(frozen=True)
class Cache:
    """Fetched files by checksum.

    Attributes:
        folder: Where they lie.
        limit: Bytes that all of them may take.
    """

    folder: Path
    limit: int

    def place(self, entry: FileEntry, fetch: Callable[[Path], None]) -> Path:
        """Returns the file of ``entry``, which ``fetch`` writes if it is not there.

        Raises:
            ShardError: If the cache is too small for it, or whatever ``fetch`` raises.
        """
        path = self.path(entry)
        if self._use(path, entry):
            return path
        with self._locked(entry.sha256):
            if not self._use(path, entry):
                self._make_room(entry)
                fetch(path)
        return path

    def path(self, entry: FileEntry) -> Path:
        """Returns where the file of ``entry`` lies or would lie."""
        return self.folder / f"{entry.sha256}{Path(entry.path).suffix}"

    def discard(self, entry: FileEntry) -> bool:
        """Removes a file, to be fetched again; returns whether it was there."""
        path = self.path(entry)
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    def _use(self, path: Path, entry: FileEntry) -> bool:
        try:
            status = path.stat()
            if status.st_size != entry.bytes:
                return False
            if time.time() - status.st_mtime > _TOUCH_S:
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, entry: FileEntry) -> None:
        """Removes what was not used for longest until ``entry`` fits."""
        if entry.bytes > self.limit:
            raise ShardError(
                f"{entry.path} of {entry.bytes} bytes does not fit the cache {self.folder} of "
                f"{self.limit}: give it more with EPITAXY_CACHE_BYTES, or read Zarr shards, which "
                "need no cache"
            )
        with self._locked("all"):
            found = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
            total = sum(size for _, size, _ in found) + entry.bytes
            for _, size, path in sorted(found):
                if total <= self.limit:
                    return
                if path.is_file():
                    path.unlink(missing_ok=True)
                    total -= size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self.folder.parent / f"{self.folder.name}-locks"
        for folder in (self.folder, locks):
            folder.mkdir(parents=True, exist_ok=True)
        with (locks / f"{name}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
