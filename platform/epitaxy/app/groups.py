"""Where the YAML files of configuration groups lie: with epitaxy, and in folders of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from epitaxy.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGE / "conf"
_JOBS = _PACKAGE.parents[1] / "jobs"
"""Of a checkout, whose experiments the wheel holds among its groups."""


def further_folders(config_dirs: Sequence[str] = ()) -> list[Path]:
    """Returns the folders with groups besides the package's own: of a checkout, then the user's.

    Raises:
        ConfigError: If one of the user's is no folder.
    """
    checkout = (_JOBS / "experiment").is_dir() and not (_SHIPPED / "experiment").is_dir()
    folders = [_JOBS] if checkout else []
    for folder in config_dirs:
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise ConfigError(f"--config-dir {path} is no folder")
        folders.append(path)
    return folders


def options_of(group: str, config_dirs: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the names that can be chosen for a group, such as ``encoder``."""
    folders = [_SHIPPED, *further_folders(config_dirs)]
    found = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return tuple(sorted(found))


def text_of(group: str, name: str | None, config_dirs: Sequence[str] = ()) -> str:
    """Returns the text of the file of a choice; empty if nothing of that name is there."""
    for folder in (_SHIPPED, *further_folders(config_dirs)):
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""
