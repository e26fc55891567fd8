"""The parent's end of the pipe to the reader of foreign files."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from epitaxy.errors import SourceError
from epitaxy.foreign.wire import PREFIX_BYTES, WireError, parse_header, parse_prefix

SCRIPT = Path(__file__).with_name("unpickler.py")
_PACKAGES = ("numpy", "lmdb")
_KEPT = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "LANG", "HOME")
_OVERHEAD = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What reading a foreign file may take.

    Attributes:
        memory: Bytes of address space of the child, besides the mapped file.
        seconds: Longest silence: no record, and no progress in reading the file.
        unpacked: Bytes that a compressed file, or a compressed value, may unpack to.
    """

    memory: int = 16 * 2**30
    seconds: float = 600.0
    unpacked: int = 64 * 2**30


class Child:
    """A reader of one file; leaving the context ends it.

    Args:
        path: Of the file, for the request and for messages.
        request: What to read, see ``epitaxy.foreign.child.answer``.
        limits: Of the child.
    """

    def __init__(self, path: str, request: dict[str, Any], limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._last = ""
        self._request = {
            "path": os.path.abspath(path),
            "select": "",
            "decode": "auto",
            "memory": limits.memory,
            "unpacked": limits.unpacked,
            "packages": _package_folders(),
            **request,
        }
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Child:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, **threads},
            process_group=0,
        )
        line = json.dumps(self._request).encode("ascii") + b"\n"
        with contextlib.suppress(BrokenPipeError):  # dead already; ``messages`` says of what
            self._pipe("stdin").write(line)
            self._pipe("stdin").flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for name in ("stdin", "stdout", "stderr"):
            with contextlib.suppress(BrokenPipeError):
                self._pipe(name).close()

    def messages(self) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Yields (header, blob) of each record.

        Raises:
            SourceError: If the child fails, dies or is silent for too long.
        """
        while True:
            try:
                header, blob = self._message()
            except WireError as error:
                raise SourceError(f"the reader of {self._path} sent nonsense: {error}") from error
            kind = header.get("kind")
            if kind == "end":
                return
            if kind == "fail":
                raise SourceError(f"{self._path} {header.get('why')}{self._after()}")
            if kind in ("item", "bad", "refused"):
                self._last = str(header.get("name"))
                yield header, blob
            elif kind != "tick":
                raise SourceError(f"the reader of {self._path} sent a message {str(kind)[:20]!r}")

    def _message(self) -> tuple[dict[str, Any], bytearray]:
        deadline = time.monotonic() + self._limits.seconds
        prefix = self._receive(PREFIX_BYTES, deadline)
        sizes = parse_prefix(bytes(prefix), self._limits.memory + _OVERHEAD)
        header, blob = (self._receive(size, deadline) for size in sizes)
        return parse_header(bytes(header)), blob

    def _receive(self, count: int, deadline: float) -> bytearray:
        """Returns exactly ``count`` bytes."""
        stream = self._pipe("stdout").fileno()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        received = bytearray(count)
        view, have = memoryview(received), 0
        while have < count:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise SourceError(
                    f"{self._path} kept its reader busy for {self._limits.seconds:g} s without a "
                    f"result{self._after()}; it is damaged, or so large that it needs "
                    "limits=Limits(seconds=...)"
                )
            got = os.readv(stream, [view[have:]])
            if not got:
                raise self._death()
            have += got
        return received

    def _death(self) -> SourceError:
        """Returns why the pipe is closed although no message said so."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return SourceError(f"the reader of {self._path} closed its output{self._after()}")
        if code >= 0:
            lines = self._pipe("stderr").read().decode("utf-8", "replace").strip().splitlines()
            why = lines[-1] if lines else "no reason given"
            return SourceError(f"the reader of {self._path} failed{self._after()}: {why}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        cause = "damaged file; copy or download it again"
        if -code == signal.SIGKILL:
            cause = "the machine probably ran out of memory"
        return SourceError(
            f"{self._path} ended the reader by signal {-code} ({name}){self._after()}: {cause}"
        )

    def _after(self) -> str:
        return f" after record {self._last!r}" if self._last else ""

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] | None = getattr(self._process, name)
        if pipe is None:
            raise RuntimeError(f"the reader was started without {name}")
        return pipe


def _package_folders() -> list[str]:
    """Returns where the packages that the child needs are installed for this process."""
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    origins = [spec.origin for spec in specs if spec is not None and spec.origin]
    return sorted({str(Path(origin).resolve().parent.parent) for origin in origins})
