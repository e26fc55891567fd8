"""Pickles of entries: a list or dictionary of them, or one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epitaxy.data.field_rule import FieldRule
from epitaxy.data.sources.contract import BadRecord, Piece
from epitaxy.data.sources.entries import EntrySource
from epitaxy.data.sources.files import stem
from epitaxy.data.sources.stand_ins import unwrap
from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.foreign.unpickle import BadValue, read_pickles

_FRAMES = ("all", "last", "first")


class PickleEntries(EntrySource):
    """Reads ``.p``, ``.pkl`` and ``.pt`` files of entries, one entry for each record.

    A process of its own reads them, with an allow-list of types; the versions of the packages that
    wrote the file do not matter, nor whether they are installed.

    Args:
        fields: Label name to where it stands in an entry.
        allow: Further classes that may occur (``mypackage.Crystal``); they are not imported, their
            state is the entry.
        **entry: How an entry is understood; see ``EntrySource``. Templates know ``key``, the key
            or the position of the entry.
    """

    default_id = "{file}-{key}"

    def __init__(
        self, fields: Mapping[str, FieldRule], *, allow: Sequence[str] = (), **entry: Any
    ) -> None:
        super().__init__(fields, **entry)
        self._allow = tuple(allow)

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the entries in the order of the file.

        Raises:
            SourceError: If the file is no pickle, is damaged, or holds a type that is not allowed
                outside of an entry.
        """
        for number, (key, value) in enumerate(self._items(uri)):
            where = f"{uri}, entry {key!r}"
            if isinstance(value, BadValue):
                yield BadRecord(where, value.error)
                continue
            context = {"number": number, "row": number + 1, "file": stem(uri), "key": key}
            yield Piece(where, (context, unwrap(value)))

    def _items(self, uri: str) -> Iterator[tuple[str, Any]]:
        return read_pickles(uri, allow=self._allow, select="items")


class PickleTrajectories(PickleEntries):
    """Reads pickles of trajectories: material to lists that run in parallel, one place a frame.

    That is the layout of the MPF.2021 blocks: ``{material: {structure: [...], energy: [...], …}}``.

    Args:
        fields: Label name to its list in a material's dictionary.
        frames: ``all``, or only the ``first`` or the ``last`` (the relaxed one) of each material.
        **entry: See ``PickleEntries``. Templates know ``key``, the material, and ``frame``.
    """

    default_id = "{key}-{frame}"

    def __init__(
        self, fields: Mapping[str, FieldRule], *, frames: str = "all", **entry: Any
    ) -> None:
        super().__init__(fields, **{"group": "{key}", **entry})
        if frames not in _FRAMES:
            raise ConfigError(f"frames is {frames!r}; {closest(frames, _FRAMES)}")
        self._frames = frames

    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the frames of every material in order.

        Raises:
            SourceError: If the file is no pickle, or damaged.
        """
        number = 0
        for key, value in self._items(uri):
            where = f"{uri}, {key!r}"
            if isinstance(value, BadValue):
                yield BadRecord(where, value.error)
                continue
            try:
                frames = self._chosen(value)
            except RecordError as error:
                yield BadRecord(where, error)
                continue
            for frame, entry in frames:
                context = {"number": number, "row": number + 1, "file": stem(uri)}
                context |= {"key": key, "frame": frame}
                yield Piece(f"{where}, frame {frame}", (context, unwrap(entry)))
                number += 1

    def _chosen(self, value: Any) -> list[tuple[int, dict[str, Any]]]:
        if not isinstance(value, Mapping):
            raise RecordError(f"the material is {str(value)[:60]!r}, expected lists of frames")
        lists = {name: part for name, part in value.items() if isinstance(part, list)}
        lengths = {name: len(part) for name, part in lists.items()}
        if not lists or len(set(lengths.values())) > 1:
            raise RecordError(f"its lists are not equally long: {lengths}")
        count = next(iter(lengths.values()))
        chosen = {"all": range(count), "last": range(count)[-1:], "first": range(count)[:1]}
        constant = {name: part for name, part in value.items() if name not in lists}
        return [
            (frame, constant | {name: part[frame] for name, part in lists.items()})
            for frame in chosen[self._frames]
        ]
