"""Finds the model folder that a user names: a path, or a reference into the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from epitaxy.errors import RegistryError
from epitaxy.registry.card import check_targets
from epitaxy.registry.contract import Registry
from epitaxy.registry.open import open_registry
from epitaxy.registry.package import MODEL_FILES, ORIGIN_FILE, README_FILE
from epitaxy.train.folders import MANIFEST, read_json

WEIGHTS, CARD = MODEL_FILES
_MAX_CARD_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class SourceModel:
    """A model that a run starts from or that is evaluated.

    Attributes:
        folder: Local model folder.
        card: Contents of its ``model.json``, checked for foreign code.
        identity: ``reference`` and ``digest`` (of a published version), ``weights`` (sha256 of
            the tensors): what lineage says of it.
    """

    folder: Path
    card: Mapping[str, Any]
    identity: Mapping[str, str]


def registry_of(config: Mapping[str, Any]) -> Registry:
    """Returns the registry that a configuration names."""
    return open_registry(config["registry"]["uri"], config["registry"]["artifacts"])


def find_model(named: str, config: Mapping[str, Any], trusted: Sequence[str] = ()) -> SourceModel:
    """Returns the model that ``named`` stands for; a published one is pulled once and kept.

    Args:
        named: A model folder, or ``name``, ``name@alias``, ``name@3``.
        config: Gives ``registry`` and ``home``.
        trusted: Module prefixes the user vouches for.

    Raises:
        RegistryError: If there is no such model, it was changed, or it names foreign code.
        CheckpointError: If the folder is no model folder.
    """
    folder = Path(named).expanduser().absolute()
    if not (folder / CARD).is_file():
        if "/" in named:
            raise RegistryError(f"{folder} is no model folder (no {CARD} in it) and no reference")
        folder = _pull(named, config)
    card = read_json(folder / CARD)
    check_targets(card, str(folder / CARD), tuple(trusted))
    identity = {"weights": read_json(folder / MANIFEST)[WEIGHTS]["sha256"]}
    if (folder / ORIGIN_FILE).is_file():
        origin = read_json(folder / ORIGIN_FILE)
        identity |= {"reference": origin["reference"], "digest": origin["digest"]}
    return SourceModel(folder, card, identity)


def _pull(reference: str, config: Mapping[str, Any]) -> Path:
    registry = registry_of(config)
    version = registry.resolve(reference)
    # The digest in the name keeps the registries of one home apart.
    name = f"{version.name}-{version.number}-{version.digest[:12]}"
    folder = Path(config["home"]) / "cache" / "models" / name
    if folder.is_dir():
        return folder
    try:
        return registry.pull(version.reference, folder)
    except RegistryError:
        if folder.is_dir():  # another process pulled it meanwhile
            return folder
        raise


def card_text(registry: Registry, reference: str) -> str:
    """Returns the card of a published model for people; it is text from elsewhere, made harmless.

    Raises:
        RegistryError: If there is no such model or it has no card.
    """
    version = registry.resolve(reference)
    path = f"{version.location}/{README_FILE}"
    try:
        with fsspec.open(path, "rt", encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MAX_CARD_CHARACTERS)
    except OSError as error:
        raise RegistryError(f"{version.reference}: cannot read {path}: {error}") from error
    head = f"{version.reference}  aliases: {', '.join(version.aliases) or 'none'}\n\n"
    return head + "".join(c for c in text if c.isprintable() or c == "\n")
