"""What every source of records promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from epitaxy.errors import RecordError
from epitaxy.graph.record import CrystalRecord


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read; the ones after it can.

    Attributes:
        where: File and record, for people.
        error: Why.
    """

    where: str
    error: Exception


@dataclass(frozen=True)
class Piece:
    """The raw content of one record, cheap to cut off a file and to send to another process.

    Attributes:
        where: File and record, for people.
        content: Whatever the source's ``record`` understands; plain Python or numpy.
    """

    where: str
    content: Any


@runtime_checkable
class Source(Protocol):
    """Reads one kind of file. Built from a recipe: ``_target_``, plain arguments, ``fields``."""

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the records of one file in order, one item for every record, good or bad.

        Raises:
            SourceError: If the file as a whole cannot be read (on).
        """
        ...


class PieceSource(ABC):
    """A source in two halves, so that many processes can share the slow one.

    ``pieces`` walks a file in one process; ``record`` parses a piece in any.
    """

    @abstractmethod
    def pieces(self, uri: str) -> Iterator[Piece | BadRecord]:
        """Yields the raw records of a file in order.

        Raises:
            SourceError: If the file as a whole cannot be read (on).
        """

    @abstractmethod
    def record(self, piece: Piece) -> CrystalRecord:
        """Returns the record in a piece.

        Raises:
            RecordError: If it holds no usable record.
        """

    def read(self, uri: str) -> Iterator[CrystalRecord | BadRecord]:
        """Yields the records of one file in order, one item for every record, good or bad.

        Raises:
            SourceError: If the file as a whole cannot be read (on).
        """
        for piece in self.pieces(uri):
            yield parse_piece(self, piece)


def parse_piece(source: PieceSource, piece: Piece | BadRecord) -> CrystalRecord | BadRecord:
    """Returns the record in a piece, or why there is none."""
    if isinstance(piece, BadRecord):
        return piece
    try:
        return source.record(piece)
    except RecordError as error:
        return BadRecord(piece.where, error)
