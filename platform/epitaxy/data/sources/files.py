"""Paths, patterns and compressed text, shared by the sources."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import IO

from epitaxy.errors import SourceError


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
    """Opens a text file, compressed if its name ends with ``.gz``.

    Raises:
        SourceError: If it does not exist, or reading it in the body fails: the compressed stream
            is cut off or damaged, or it is not UTF-8.
    """
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as stream:
            yield stream
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {path!r}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path} is cut off or damaged: {error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text: {error}") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder, expected a file") from error


def stem(path: str) -> str:
    """Returns the name of a file without folder and endings: ``a/b.xyz.gz`` → ``b``."""
    return Path(path).name.split(".")[0]
