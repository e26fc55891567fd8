"""Who parses source files: processes here, or tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from epitaxy.app.paths import absolute

MAX_READERS = 8
"""Processes that parse source files unless told otherwise."""


@contextmanager
def readers(config: dict[str, Any]) -> Iterator[int]:
    """Gives the number of processes that parse, on a Ray cluster if ``compute=ray`` asks for one.

    Unless ``workers=`` says how many, that is one per core, at most eight, and all the CPUs that
    a cluster has besides the one that walks the source.
    """
    cores = min(os.cpu_count() or 1, MAX_READERS)
    if config["compute"] != "ray":
        yield int(config["workers"] or cores)
        return
    from epitaxy.train.launch import cluster

    with cluster(int(config["workers"] or cores) + 1):
        import ray

        yield int(config["workers"] or max(ray.cluster_resources().get("CPU", 0.0) - 1, 1))


def source_uri(source: Any) -> str:
    """Returns ``source=`` with absolute paths, several with commas between."""
    named = source if isinstance(source, list) else str(source or "").split(",")
    return ",".join(absolute(str(part)) if part else "" for part in named)
