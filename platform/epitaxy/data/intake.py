"""The half of ``prepare`` that sees every record: ids, labels, counts, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from epitaxy.data.codec import decode, record_digest
from epitaxy.data.parse import Accepted, LeftOut, Outcome, Refused
from epitaxy.data.physics import Check, PhysicsBook
from epitaxy.data.sidecars import SidecarWriter
from epitaxy.data.twins import Twins
from epitaxy.data.validate import FieldBook
from epitaxy.errors import EpitaxyError, RecordError, SourceError

Place = tuple[str, int]
"""A file and the number of a record in it."""

_LISTED = 100


def place_text(place: Place) -> str:
    """Returns where a record stands, for people."""
    file, number = place
    return f"{file}, record {number}" if file else f"record {number}"


@dataclass
class Intake:
    """Takes outcomes in order and gives the bytes of the records that stay.

    Attributes:
        on_error: ``stop`` or ``skip``.
        log: Receives a JSON line for every record that is skipped.
        physics: Sees every record, if given, and so do ``twins``.
        twins: Finds structures that occur twice.
        book: What every label looks like.
        sidecars: Arrays beside the shards.
        rows: Row of every id.
        digests: Digest of every record.
        places: Where every record stood.
        skipped: Number of records that could not be used.
        listed: (where, why) of the first of them.
        filtered: Rule to number of sound records that it left out.
    """

    on_error: str
    log: IO[str]
    physics: PhysicsBook | None = None
    twins: Twins = field(default_factory=Twins)
    book: FieldBook = field(default_factory=FieldBook)
    sidecars: SidecarWriter = field(default_factory=SidecarWriter)
    rows: dict[str, int] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    skipped: int = 0
    listed: list[tuple[str, str]] = field(default_factory=list)
    filtered: Counter[str] = field(default_factory=Counter)

    def blobs(
        self, batches: Iterable[tuple[list[tuple[Place, Any]], list[Outcome]]]
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

    def checks(self) -> list[Check]:
        """Returns what physics says of the labels; nothing if it was not asked."""
        return [] if self.physics is None else [*self.physics.checks(), *self.twins.checks()]

    def check_any(self) -> None:
        """Refuses a source without a single good record."""
        if not self.rows:
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
        if record.id in self.rows:
            first = self.places[self.rows[record.id]]
            raise RecordError(
                f"id {record.id!r} occurs twice: first in {place_text(first)}, again in "
                f"{place_text(place)}; ids must be unique (choose another id in the recipe)"
            )
        self.book.check(record)
        digest = record_digest(outcome.blob)
        self.sidecars.add(record, digest, outcome.neighbors)
        if self.physics is not None:
            self.physics.add(record)
            self.twins.add(record)
        self.rows[record.id] = len(self.digests)
        self.digests.append(digest)
        self.places.append(place)
        return outcome.blob

    def _refuse(self, where: str, error: EpitaxyError) -> None:
        if self.on_error == "stop":
            message = f"{where}: {error} (on_error=skip leaves such records out and lists them)"
            raise type(error)(message) from error
        self.skipped += 1
        if len(self.listed) < _LISTED:
            self.listed.append((where, str(error)))
        line = json.dumps({"where": where, "why": str(error)}, ensure_ascii=False)
        self.log.write(line + "\n")
