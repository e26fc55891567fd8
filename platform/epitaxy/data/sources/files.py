"""Paths, patterns and compressed text, shared by the sources."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
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
    return archive.open(names[0])


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
def open_text(path: str) -> Iterator[IO[str]]:
    """Opens a text file, compressed if its name ends with ``.gz``, ``.bz2`` or ``.xz``.

    Raises:
        SourceError: If it does not exist, or reading it in the body fails: the compressed stream
            is cut off, damaged or expands beyond reason, or it is not UTF-8.
    """
    try:
        with open_bytes(path) as raw:
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 text: {error}; convert it, such as with "
            "iconv --from-code=latin1 --to-code=utf-8"
        ) from error


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
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} is cut off or damaged: {error}") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder, expected a file") from error
    except PermissionError as error:
        raise SourceError(f"{path} may not be read: {error.strerror}") from error


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
            raise SourceError(
                f"{self._path} expands to more than {self._limit >> 20} MiB, over {BOMB_RATIO} "
                "times its size: a decompression bomb? If it is not, decompress it yourself"
            )
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


def stem(path: str) -> str:
    """Returns the name of a file without folder and endings: ``a/b.xyz.gz`` → ``b``."""
    return Path(path).name.split(".")[0]
