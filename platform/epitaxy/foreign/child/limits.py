"""What the reader of foreign files may use and do, and when it ends."""

from __future__ import annotations

import os
import resource
import select
import sys
import threading
from typing import Any

_FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.spawn",
    "os.system",
    "shutil.",
    "socket.",
    "subprocess.",
    "urllib.",
)
_PAGE_BYTES = resource.getpagesize()


def limit_memory(more: int) -> None:
    """Allows ``more`` bytes of address space beyond what is mapped now; forbids core dumps.

    What is mapped already, such as an LMDB file of any size, does not count.
    """
    with open("/proc/self/statm", encoding="ascii") as stream:
        mapped = int(stream.read().split()[0]) * _PAGE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + more
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_writing() -> None:
    """Keeps this process from writing to files and from starting programs, for good.

    Nothing in a pickle can ask for either; this is a second wall.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"the reader of foreign files does no {event}")


def end_with_parent(stdin: int = 0) -> None:
    """Ends this process as soon as its parent closes the pipe or is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            ready, _, _ = select.select([stdin], [], [], 1.0)
            if ready and not os.read(stdin, 1):
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
