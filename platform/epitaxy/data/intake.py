"""The half of ``prepare`` that sees every record: ids, labels, counts, and what was left out.

What stays in memory is one shard's part of the sidecar arrays and about 100 bytes per record.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from epitaxy.data.codec import decode, record_digest
from epitaxy.data.key_table import KEY_BYTES, KeyTable
from epitaxy.data.parse import Accepted, LeftOut, Outcome, Refused
from epitaxy.data.physics import Check, PhysicsBook
from epitaxy.data.sidecars import SidecarWriter
from epitaxy.data.twins import Twins
from epitaxy.data.validate import FieldBook
from epitaxy.errors import EpitaxyError, RecordError, SourceError
from epitaxy.graph.record import CrystalRecord, LabelField

Place = tuple[str, int]
"""A file and the number of a record in it."""

PLACE_ARRAYS = ("place_files", "place_numbers")
"""Arrays of a part that an import needs to go on, and the data set does not."""

LISTED = 100
"""Skipped records that the manifest lists."""


def place_text(place: Place) -> str:
    """Returns where a record stands, for people."""
    file, number = place
    return f"{file}, record {number}" if file else f"record {number}"


class Places:
    """Where every record stood, 12 bytes each."""

    def __init__(self, files: Iterable[str] = ("",)) -> None:
        self._files = list(files)
        self._index = {file: index for index, file in enumerate(self._files)}
        self._columns = (array("i"), array("q"))

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> Place:
        return self._files[self._columns[0][row]], self._columns[1][row]

    def append(self, place: Place) -> None:
        """Notes the place of the next record."""
        file, number = place
        if file not in self._index:
            self._index[file] = len(self._files)
            self._files.append(file)
        self._columns[0].append(self._index[file])
        self._columns[1].append(number)

    def arrays(self, first: int) -> dict[str, np.ndarray]:
        """Returns the places from row ``first`` on, as a part stores them."""
        columns = zip(PLACE_ARRAYS, self._columns, strict=True)
        return {name: np.array(column[first:]) for name, column in columns}

    def extend(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes places that ``arrays`` gave to an import of the same files."""
        for column, values in zip(self._columns, arrays, strict=True):
            column.extend(values.tolist())


@dataclass
class Intake:
    """Takes outcomes in order and gives the bytes of the records that stay.

    Attributes:
        on_error: ``stop`` or ``skip``.
        log: Receives a JSON line for every record that is skipped.
        physics: Sees every record, if given, and so do ``twins``.
        places: Where every record stood.
        twins: Finds structures that occur twice.
        book: What every label looks like.
        skipped: Number of records that could not be used.
        listed: (where, why) of the first of them.
        filtered: Rule to number of sound records that it left out.
    """

    on_error: str
    log: IO[str]
    physics: PhysicsBook | None = None
    places: Places = field(default_factory=Places)
    twins: Twins = field(default_factory=Twins)
    book: FieldBook = field(default_factory=FieldBook)
    skipped: int = 0
    listed: list[tuple[str, str]] = field(default_factory=list)
    filtered: Counter[str] = field(default_factory=Counter)
    _ids: KeyTable = field(default_factory=KeyTable)
    _part: SidecarWriter = field(default_factory=SidecarWriter)
    _cut: int = 0
    _known: int = 0

    def __len__(self) -> int:
        """Number of records that stayed."""
        return len(self.places)

    def blobs(
        self, batches: Iterable[tuple[Sequence[tuple[Place, Any]], list[Outcome]]]
    ) -> Iterator[bytes]:
        """Yields the encoded records that stay.

        Raises:
            EpitaxyError: At the first record that cannot be used, unless they are skipped.
        """
        for batch, outcomes in batches:
            for (place, _), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, LeftOut):
                    self.filtered[outcome.rule] += 1
                    continue
                try:
                    blob = self._accept(place, outcome)
                except EpitaxyError as error:
                    where = outcome.where if isinstance(outcome, Refused) else place_text(place)
                    self._refuse(where, error)
                else:
                    yield blob

    def part(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the records since the last call."""
        arrays = self._part.arrays() | self.places.arrays(self._cut)
        self._part, self._cut = SidecarWriter(), len(self)
        return arrays

    def recall(self, record: CrystalRecord) -> None:
        """Takes a record of a finished shard, whose part and place are stored already."""
        self._ids.add(_key(record.id), len(self._ids))
        self.book.check(record)
        self._examine(record)

    def know(self, ids: Iterable[str], fields: Iterable[LabelField], file: str) -> None:
        """Takes ids and labels of the records of the data set ``file`` that is appended to."""
        self.book.know(fields, f"the data set {file}")
        for row, identity in enumerate(ids):
            self._ids.add(_key(identity), row)
            self.places.append((file, row))
        self._cut = self._known = len(self)

    def recalled(self, places: Sequence[np.ndarray]) -> None:
        """Takes the places of the records of a finished shard."""
        self.places.extend(places)
        self._cut = len(self)

    def checks(self) -> list[Check]:
        """Returns what physics says of the labels; nothing if it was not asked."""
        return [] if self.physics is None else [*self.physics.checks(), *self.twins.checks()]

    def check_any(self) -> None:
        """Refuses a source without a single good record."""
        if len(self) == self._known:
            first = f"; the first: {' '.join(self.listed[0])}" if self.listed else ""
            rules = "".join(
                f"; {count} left out by {rule}" for rule, count in self.filtered.items()
            )
            raise SourceError(f"no usable record, {self.skipped} bad ones{first}{rules}")

    def _accept(self, place: Place, outcome: Outcome) -> bytes:
        if isinstance(outcome, Refused):
            raise outcome.error
        if not isinstance(outcome, Accepted):
            raise TypeError(f"unexpected outcome {outcome!r}")
        record = decode(outcome.blob)
        self._check_id(record.id, place)
        self.book.check(record)
        self._ids.add(_key(record.id), len(self))
        self._part.add(record, record_digest(outcome.blob), outcome.neighbors)
        self._examine(record)
        self.places.append(place)
        return outcome.blob

    def _check_id(self, identity: str, place: Place) -> None:
        row = self._ids.find(_key(identity))
        if row is not None:
            raise RecordError(
                f"id {identity!r} occurs twice: first in {place_text(self.places[row])}, again in "
                f"{place_text(place)}; ids must be unique (choose another id in the recipe)"
            )

    def _examine(self, record: CrystalRecord) -> None:
        if self.physics is not None:
            self.physics.add(record)
            self.twins.add(record)

    def _refuse(self, where: str, error: EpitaxyError) -> None:
        if self.on_error == "stop":
            message = f"{where}: {error} (on_error=skip leaves such records out and lists them)"
            raise type(error)(message) from error
        self.skipped += 1
        if len(self.listed) < LISTED:
            self.listed.append((where, str(error)))
        line = json.dumps({"where": where, "why": str(error)}, ensure_ascii=False)
        self.log.write(line + "\n")


def _key(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode(), digest_size=KEY_BYTES).digest()
