"""Paths as workers need them: absolute, because a worker runs in another folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epitaxy.errors import ConfigError

_RAY_JOB_FOLDER = "/runtime_resources/working_dir_files/"


def default_home() -> str:
    """Returns ``$EPITAXY_HOME``, else ``~/.epitaxy``, absolute."""
    return absolute(os.environ.get("EPITAXY_HOME") or "~/.epitaxy")


def absolute(path: str) -> str:
    """Returns ``path`` absolute, with ``~`` expanded; URIs (``s3://…``) stay as they are."""
    if "://" in path:
        return path.removeprefix("file://")
    return os.path.normpath(Path(path).expanduser().absolute())


def absolute_output(path: str, key: str) -> str:
    """Returns ``path`` absolute, for something that is to be kept.

    Raises:
        ConfigError: If it would lie in the folder of a Ray job, which vanishes with the cluster.
    """
    full = absolute(path)
    if _RAY_JOB_FOLDER in full:
        raise ConfigError(
            f"{key}={path} is relative to the folder of the Ray job, which is lost with the "
            "session; give an absolute path"
        )
    return full


def set_absolute(config: dict[str, Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Makes the values at these dotted keys of ``config`` absolute, where they are set."""
    for key in (*inputs, *outputs):
        *parents, name = key.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) or {}
        value = node.get(name)
        if isinstance(value, str) and value != "???":
            node[name] = absolute_output(value, key) if key in outputs else absolute(value)
        elif isinstance(value, list) and key in inputs:
            node[name] = [absolute(str(path)) for path in value]


def output_file(out: object, endings: Sequence[str]) -> Path | None:
    """Returns the file that ``out=`` names, absolute; ``None`` if it names none.

    Raises:
        ConfigError: If its name has none of the ``endings``.
    """
    if out is None:
        return None
    path = Path(absolute_output(str(out), "out"))
    if path.suffix.lower() not in endings:
        raise ConfigError(f"out={out}: the file must end with {', '.join(endings)}")
    return path
