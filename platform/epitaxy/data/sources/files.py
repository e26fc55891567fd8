"""Paths, patterns and compressed text, shared by the sources."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from epitaxy.errors import SourceError

BOMB_BYTES = 1 << 28
"""Size from which on a compressed file is checked for its ratio of expansion."""
BOMB_RATIO = 200
"""Largest expansion that is believed; text of crystals expands three to twenty times."""


def _open_zip(path: str) -> IO[bytes]:
    """Opens the only file in a zip archive, the form in which JARVIS is distributed."""
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise SourceError(f"{path} holds {len(names)} files, expected one; unpack it yourself")
    try:
        return archive.open(names[0])
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or compressed by other means
        raise SourceError(f"{path} cannot be unpacked: {error}") from error


_OPENERS: dict[str, Callable[[str], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _open_zip,
}


def expand(uri: str) -> list[str]:
    """Returns the paths that ``uri`` names: one, several with commas between, patterns with ``*``.

    An empty ``uri`` and one with a scheme (``emt://?seed=1``) stand for themselves.

    Raises:
        SourceError: If a path does not exist, a pattern matches nothing, or a path occurs twice.
    """
    if not uri or "://" in uri or Path(uri).exists():
        return [uri]
    paths: list[str] = []
    for part in uri.split(","):
        part = part.strip()
        found = [part] if Path(part).exists() else sorted(glob(part, recursive=True))
        if not found:
            kind = "nothing matches" if any(c in part for c in "*?[") else "there is no file"
            raise SourceError(f"{kind} {part!r} (looked in {Path.cwd()})")
        paths += found
    repeated = {path for path in paths if paths.count(path) > 1}
    if repeated:
        raise SourceError(f"{min(repeated)!r} is named twice in source {uri!r}")
    return paths


@contextmanager
def open_text(path: str, errors: str = "strict") -> Iterator[IO[str]]:
    """Opens a text file, compressed if its name ends with ``.gz``, ``.bz2``, ``.xz`` or ``.zip``.

    Args:
        path: The file.
        errors: What becomes of bytes that are not UTF-8: ``strict`` or ``replace``.

    Raises:
        SourceError: If it does not exist, or reading it in the body fails: the compressed stream
            is cut off, damaged or expands beyond reason, or it is not UTF-8.
    """
    try:
        with (
            open_bytes(path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline="") as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 text: {error}; convert it, such as with "
            "iconv --from-code=latin1 --to-code=utf-8"
        ) from error


_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@contextmanager
def open_bytes(path: str) -> Iterator[io.BufferedReader]:
    """Opens a file for reading, decompressed if its name says that it is compressed.

    Raises:
        SourceError: If it does not exist, cannot be read, is cut off, damaged or a bomb.
    """
    ending = Path(path).suffix
    try:
        if ending not in _OPENERS:
            with open(path, "rb") as plain:
                yield plain
            return
        with _OPENERS[ending](path) as packed:
            yield io.BufferedReader(_Guarded(path, packed), 1 << 20)
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {path!r}") from error
    except _DAMAGED as error:
        raise SourceError(f"{path} is cut off or damaged: {error}") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder, expected a file") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


class _Guarded(io.RawIOBase):
    """A decompressed stream that refuses to expand without bound."""

    def __init__(self, path: str, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream
        self._limit = max(BOMB_BYTES, BOMB_RATIO * Path(path).stat().st_size)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(len(buffer))
        self._read += len(chunk)
        if self._read > self._limit:
            raise SourceError(_bomb(self._path, self._limit))
        buffer[: len(chunk)] = chunk
        return len(chunk)


@contextmanager
def unpacked(path: str) -> Iterator[str]:
    """Gives the path of a plain file: ``path`` itself, or a temporary copy of what it compresses.

    Raises:
        SourceError: If it cannot be read.
    """
    if Path(path).suffix not in _OPENERS:
        with open_bytes(path):
            pass
        yield path
        return
    with TemporaryDirectory() as folder:
        plain = Path(folder) / Path(path).stem
        with open_bytes(path) as stream, plain.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        yield str(plain)


@contextmanager
def unpacked_folder(path: str) -> Iterator[Path]:
    """Gives the path of a folder: ``path`` itself, or what a tar or zip archive unpacks to.

    Raises:
        SourceError: If it is neither, damaged, or expands beyond reason or out of the folder.
    """
    source = Path(path)
    if source.is_dir():
        yield source
        return
    if not source.exists():
        raise SourceError(f"there is no folder or archive {path!r}")
    with TemporaryDirectory() as folder:
        try:
            if zipfile.is_zipfile(source):
                _unpack_zip(source, folder)
            else:
                _unpack_tar(source, folder)
        except (*_DAMAGED, tarfile.TarError, OSError, RuntimeError, ValueError) as error:
            raise SourceError(
                f"{path} is neither a folder nor a readable archive (tar, zip): {error}"
            ) from error
        yield Path(folder)


def is_archive(path: str) -> bool:
    """Whether ``path`` is a tar or zip archive."""
    source = Path(path)
    return source.is_file() and (zipfile.is_zipfile(source) or tarfile.is_tarfile(source))


def _unpack_tar(source: Path, folder: str) -> None:
    with tarfile.open(source) as archive:
        _check_total(source, (member.size for member in archive))
        archive.extractall(folder, filter="data")


def _unpack_zip(source: Path, folder: str) -> None:
    with zipfile.ZipFile(source) as archive:
        _check_total(source, (member.file_size for member in archive.infolist()))
        archive.extractall(folder)


def _check_total(source: Path, sizes: Iterable[int]) -> None:
    total, limit = 0, max(BOMB_BYTES, BOMB_RATIO * source.stat().st_size)
    for size in sizes:
        total += size
        if total > limit:
            raise SourceError(_bomb(str(source), limit))


def _bomb(path: str, limit: int) -> str:
    return (
        f"{path} expands to more than {limit >> 20} MiB, over {BOMB_RATIO} times its size: a "
        "decompression bomb? If it is not, unpack it yourself"
    )


def stem(path: str) -> str:
    """Returns the name of a file without folder and endings: ``a/b.xyz.gz`` → ``b``."""
    return os.path.basename(path).split(".")[0]
