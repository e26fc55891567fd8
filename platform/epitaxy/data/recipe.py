"""Recipes: one YAML per kind of data set, saying how to read it and what its numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from epitaxy.build import build, locate
from epitaxy.data.field_rule import FieldRule, check_fields
from epitaxy.data.sources.contract import Source
from epitaxy.errors import ConfigError, closest

_PACKAGE = Path(__file__).resolve().parents[1]
RECIPE_FOLDERS = (_PACKAGE / "conf" / "recipe", _PACKAGE.parents[1] / "datasets")
"""The wheel's recipes, or those of a checkout."""


UNKNOWN = "???"
"""What a drafted recipe says where only its user knows the answer."""


@dataclass(frozen=True)
class Recipe:
    """How a data set is read.

    Attributes:
        name: Name of the recipe.
        source: ``_target_`` and plain arguments of a ``Source``; ``fields`` is passed to it too.
        fields: Label name to where it stands in the source and what it means there.
        description: What it is for, in a sentence.
        licence: Licence of the data.
        citation: Whom to cite.
        notes: Traps and how the conventions were checked.
        url: Where the original is to be had.
        size: Records of the complete original, for comparison with what was found; 0 if unknown.
        files: Name of a file to its ``sha256`` and ``records``: what the conventions were checked
            on. Another file of that name is read with a warning.
        filter: Records that are left out and counted; see ``epitaxy.data.parse.Sieve``.
        splits: Name to settings of splits that are stored with the data set; see
            ``epitaxy.data.splits``.
        symmetry: Whether space group and crystal system are determined for every record.
        fingerprint: ``magpie`` to store that vector of every composition; see
            ``epitaxy.data.magpie``.
    """

    name: str
    source: Mapping[str, Any]
    fields: Mapping[str, FieldRule] = field(default_factory=dict)
    description: str = ""
    licence: str = ""
    citation: str = ""
    notes: str = ""
    url: str = ""
    size: int = 0
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    filter: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    symmetry: bool = False
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        check_fields(self.fields)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], name: str = "") -> Recipe:
        """Returns the recipe that a YAML file or ``to_dict`` describes.

        Raises:
            ConfigError: For a missing or unknown key.
            UnitError: For an unknown unit of energy, forces or stress.
        """
        _check_keys(f"recipe {name!r}", content, cls)
        if not isinstance(content.get("source"), Mapping) or "_target_" not in content["source"]:
            raise ConfigError(f"recipe {name!r} needs a source with a _target_")
        rules = {}
        for label, rule in (content.get("fields") or {}).items():
            where = f"recipe {name!r}, field {label!r}"
            if not isinstance(rule, Mapping) or "key" not in rule:
                raise ConfigError(f"{where} needs at least a key: its name in the source")
            _check_keys(where, rule, FieldRule)
            for key, value in rule.items():
                if value == UNKNOWN:
                    raise ConfigError(f"{where}: {key} is still {UNKNOWN!r}; say what it is")
            raw = [] if rule.get("missing") is None else rule["missing"]
            missing = tuple(raw) if isinstance(raw, (list, tuple)) else (raw,)
            rules[label] = FieldRule(**{**rule, "key": str(rule["key"]), "missing": missing})
        return cls(**{"name": name, **content, "fields": rules})

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready data."""
        return asdict(self)

    def open_source(self) -> Source:
        """Returns the source; one that takes no fields declares its labels itself."""
        takes_fields = "fields" in signature(locate(str(self.source["_target_"]))).parameters
        injected: dict[str, Any] = (
            {"fields": dict(self.fields)} if self.fields or takes_fields else {}
        )
        source = build(self.source, **injected)
        if not isinstance(source, Source):
            raise ConfigError(
                f"recipe {self.name!r}: {self.source['_target_']} has no read(uri), so it is no "
                "source of records"
            )
        return source


def list_recipes() -> list[str]:
    """Returns the names of all recipes that come with epitaxy."""
    return sorted({path.stem for folder in RECIPE_FOLDERS for path in folder.glob("*.yaml")})


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Returns the recipe of that name, or the one in a YAML file.

    Raises:
        ConfigError: If there is none (with the closest name), or it cannot be understood.
        UnitError: For an unknown unit of energy, forces or stress.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"there is no recipe file {path}")
    else:
        candidates = [folder / f"{text}.yaml" for folder in RECIPE_FOLDERS]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise ConfigError(f"unknown recipe {text!r}; {closest(text, list_recipes())}")
        path = found[0]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold the keys {', '.join(f.name for f in fields(Recipe))}")
    return Recipe.from_dict(content, path.stem)


def _check_keys(where: str, content: Mapping[str, Any], kind: type[Any]) -> None:
    known = [item.name for item in fields(kind)]
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {closest(str(key), known)}")
