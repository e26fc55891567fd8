"""What every registry promises: immutable versions, movable aliases, one folder layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from epitaxy.errors import RegistryError

LATEST = "latest"
"""Built-in alias: always the highest version. It cannot be set."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,119}")
_VERSION = re.compile(r"v?([0-9]{1,9})")


@dataclass(frozen=True)
class Reference:
    """A model as a user names it: ``name``, ``name@alias``, ``name@3`` or ``name@v3``.

    Attributes:
        name: Registered model.
        version: Its number, if the reference gives one.
        alias: Its alias, if the reference gives one; neither means the latest version.
    """

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Returns the reference that ``text`` spells.

        Raises:
            RegistryError: If it is none.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if not at or selector == LATEST:
            return cls(name)
        number = _VERSION.fullmatch(selector)
        if number:
            return cls(name, version=int(number[1]))
        check_alias(selector)
        return cls(name, alias=selector)


@dataclass(frozen=True)
class Version:
    """One published, immutable version of a model.

    Attributes:
        name: Registered model.
        number: Counts from 1.
        digest: Hash of the files' hashes (sha256, hex): equal folders have equal digests.
        created: UTC, ISO 8601.
        location: Folder or URI of the files.
        aliases: Names that point here now, sorted.
    """

    name: str
    number: int
    digest: str
    created: str
    location: str
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The unambiguous reference ``name@number``."""
        return f"{self.name}@{self.number}"


class Registry(Protocol):
    """A store of model folders by name and version.

    Attributes:
        uri: Where it is, without credentials.
    """

    uri: str

    def publish(
        self,
        folder: Path,
        name: str,
        *,
        aliases: Sequence[str] = (),
        lineage: Mapping[str, Any] | None = None,
    ) -> Version:
        """Stores the model ``folder`` as the next version of ``name``.

        Args:
            folder: ``model.safetensors`` and ``model.json``.
            name: Registered model; made if new.
            aliases: Moved to the new version.
            lineage: What the card says of its origin (see ``card.build_card``).

        Raises:
            RegistryError: If the folder is no model or a name is malformed.
        """
        ...

    def resolve(self, reference: str) -> Version:
        """Returns the version a reference names now.

        Raises:
            RegistryError: If there is none, with the closest known name.
        """
        ...

    def pull(self, reference: str, destination: Path) -> Path:
        """Copies a version's files to the new folder ``destination`` and checks every byte.

        Raises:
            RegistryError: If a file is missing or changed, or ``destination`` exists.
        """
        ...

    def list(self) -> list[Version]:
        """Returns all versions, sorted by name and number."""
        ...

    def set_alias(self, name: str, alias: str, number: int) -> Version:
        """Points ``alias`` of ``name`` to version ``number``."""
        ...

    def verify(self, reference: str) -> Version:
        """Reads a version's files where they lie and checks every byte.

        Raises:
            RegistryError: If a file is missing or changed.
        """
        ...


def check_name(name: str) -> str:
    """Returns ``name`` if a model may be called so."""
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"model name {name!r}: use letters, digits, '.', '_' and '-', starting with a letter "
            "or digit; a reference is NAME, NAME@ALIAS or NAME@3"
        )
    return name


def check_alias(alias: str) -> str:
    """Returns ``alias`` if it may be set."""
    if alias.lower() == LATEST:
        raise RegistryError(f"alias {alias!r} is built in: it always means the newest version")
    if not _ALIAS.fullmatch(alias) or _VERSION.fullmatch(alias):
        raise RegistryError(
            f"alias {alias!r}: use letters, digits, '_' and '-', starting with a letter, "
            "and nothing that reads as a version (v3)"
        )
    return alias


def settable(aliases: Sequence[str]) -> list[str]:
    """Returns ``aliases`` checked, without the built-in ``latest`` (every new version has it)."""
    return [check_alias(alias) for alias in aliases if alias != LATEST]
