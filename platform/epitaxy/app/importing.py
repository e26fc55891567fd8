"""The action ``registry import-foreign``: a published checkpoint becomes a model of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epitaxy.app.models import registry_of
from epitaxy.app.paths import absolute, absolute_output
from epitaxy.errors import ConfigError
from epitaxy.registry.contract import Version, check_name, settable
from epitaxy.registry.foreign_import import ImportedModel, import_foreign


@dataclass(frozen=True)
class Imported:
    """What ``import-foreign`` returns.

    Attributes:
        model: What was written where.
        version: Where it was published, if it was.
    """

    model: ImportedModel
    version: Version | None = None

    def text(self) -> str:
        """Returns what it predicts and where it is; the notes were logged."""
        predicted = [
            f"predicts {label}{f' in {unit}' if unit else ''} ({self.model.task})"
            for label, unit in self.model.units.items()
        ]
        lines = predicted or ["predicts nothing: an encoder to fine-tune"]
        lines.append(f"model  {self.model.folder}")
        if self.version:
            lines.append(f"published as {self.version.reference}")
        return "\n".join(lines)


def run_import(config: Mapping[str, Any], aliases: list[str]) -> Imported:
    """Imports the checkpoint ``file`` and publishes it if it got a ``name``.

    Raises:
        ConfigError: If the file, or what its model needs, is missing.
        SourceError: If the file is damaged.
        CheckpointError: If it is of no known model, or needs foreign code to be read.
    """
    if config["file"] is None:
        raise ConfigError("registry import-foreign needs file=…; see `epitaxy registry --help`")
    file, name = Path(absolute(str(config["file"]))), config["name"]
    if name is not None:
        check_name(str(name))
        settable(aliases)
    elif aliases:
        raise ConfigError("alias= is set, but name=NAME is not: nothing would be published")
    stem = file.name.split(".")[0]
    out = config["out"] or Path(config["home"]) / "imported" / str(name or stem)
    options, configuration = _options(config["options"])
    model = import_foreign(
        file,
        absolute_output(str(out), "out"),
        label=_text(config["label"]),
        unit=_text(config["unit"]),
        family=str(config["family"]),
        options=options,
        configuration=configuration,
        name=str(name or ""),
    )
    if name is None:
        return Imported(model)
    lineage = {"notes": " ".join(model.notes), "parent": dict(model.origin)}
    version = registry_of(config).publish(model.folder, str(name), aliases=aliases, lineage=lineage)
    return Imported(model, version)


def _options(given: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns options, or the contents of the YAML file that ``options`` names."""
    if given is None or isinstance(given, Mapping):
        return given or {}, {}
    path = Path(absolute(str(given)))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"options={given} cannot be read as YAML: {error}; give the authors' configuration "
            "file, or options={radius: 8, …}"
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} holds no mapping, expected a configuration such as radius: 8")
    return {}, content


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
