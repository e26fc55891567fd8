"""A rank's shares of a plan as a stream of encoded records, checked one by one.

Two routes bring the same bytes: reading in this process (``direct``), and Ray Data's read tasks
anywhere in the cluster (``ray``). Neither carries correctness. Every part says which (epoch, step,
micro-batch) it is, and its records must be those of the plan: a reader that drops, repeats, swaps
or alters one is caught before the step runs. See ``docs/stream.md``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from epitaxy.data.plan import Cursor, Plan
from epitaxy.errors import ConfigError, StreamError, closest

if TYPE_CHECKING:
    from epitaxy.data.mixture import Data

WINDOW_BYTES = 8 * 2**20
"""Records read at once, and one read task's output: cheap per share, and little memory."""
RECORD_BYTES, ATOM_BYTES = 256, 25
"""A record's cell and texts, and an atom's position and number; labels come on top."""

Route = Literal["direct", "ray"]
ROUTES = ("direct", "ray")

Part = tuple[int, int, int, list[bytes]]
"""Epoch, step and micro-batch, and the encoded records of that micro-batch."""
Dealt = tuple[int, int, int, np.ndarray]
"""The same before it is read: rows instead of records."""
Window = tuple[Cursor, int]
"""First step and number of steps of what is read at once."""


@dataclass(frozen=True)
class Share:
    """What one rank computes in one step.

    Attributes:
        cursor: The step.
        micro_batches: Encoded records of each micro-batch; a micro-batch may be empty.
    """

    cursor: Cursor
    micro_batches: tuple[list[bytes], ...]


@dataclass(frozen=True)
class Seat:
    """Whose shares a stream carries: one rank's of ``world``, each in ``micro_batches`` parts."""

    rank: int
    world: int
    micro_batches: int


class Stream(Iterator[Share]):
    """This rank's shares from ``cursor`` to the end of epoch ``epochs - 1``, in order.

    Every share is compared with the plan, and every record with its digest in the data set, before
    it is handed out. A context manager: leaving it, or ``close``, ends all reading.

    Args:
        plan: The same on every rank.
        data: Where the records are.
        route: ``direct`` reads in this process; ``ray`` lets Ray's read tasks do it, and works in
            a driver as well as in a Ray Train worker.
        rank: Of this process.
        world: Number of ranks.
        micro_batches: Parts of a share.
        cursor: The first step.
        epochs: Where the stream ends.

    Raises:
        ConfigError: If there is no such route.
        PlanError: If ``cursor`` does not belong to the plan.
        ShardError: If a shard that is read directly is damaged.
        StreamError: If Ray is not running, has no room for read tasks or fails to read; or if
            anything but the plan's next share arrives.
    """

    def __init__(
        self,
        plan: Plan,
        data: Data,
        *,
        route: Route = "direct",
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        cursor: Cursor | None = None,
        epochs: int = 1,
    ) -> None:
        if route not in ROUTES:
            raise ConfigError(f"compute.stream is {route!r}; {closest(route, ROUTES)}")
        seat, start = Seat(rank, world, micro_batches), cursor or Cursor()
        if route == "ray":
            from epitaxy.data.stream_ray import ray_parts as parts
        else:
            parts = direct_parts
        steps = plan.steps_from(start, epochs)
        self._shares = check_shares(parts(plan, data, seat, start, epochs), plan, data, seat, steps)

    def __next__(self) -> Share:
        return next(self._shares)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all reading; the stream yields nothing more."""
        self._shares.close()


def check_shares(
    parts: Generator[Part, None, None],
    plan: Plan,
    data: Data,
    seat: Seat,
    steps: Iterator[Cursor],
) -> Generator[Share, None, None]:
    """Yields the shares that ``parts`` hold, if they are those of ``steps`` and nothing else.

    Raises:
        StreamError: If a part is missing, repeated, out of order or left over, or a record is not
            the one that the plan and the data set have there.
    """
    try:
        for step in steps:
            expected = plan.share(step.epoch, step.step, seat.rank, seat.world, seat.micro_batches)
            micro_batches = []
            for index, rows in enumerate(expected):
                blobs = _next_part(parts, (step.epoch, step.step, index))
                _check_records(blobs, rows, data, (step.epoch, step.step, index))
                micro_batches.append(blobs)
            yield Share(step, tuple(micro_batches))
        extra = next(parts, None)
        if extra is not None:
            raise StreamError(f"the stream goes on with {extra[:3]} after its last step")
    finally:
        parts.close()


_SAFE = "no record was lost, because the step was not run: start the run again to resume it"


def _next_part(parts: Iterator[Part], wanted: tuple[int, int, int]) -> list[bytes]:
    part = next(parts, None)
    if part is None or part[:3] != wanted:
        found = "the end" if part is None else f"(epoch, step, micro-batch) {part[:3]}"
        raise StreamError(f"the stream delivered {found} where {wanted} comes next; {_SAFE}")
    return part[3]


def _check_records(
    blobs: Sequence[bytes], rows: np.ndarray, data: Data, place: tuple[int, int, int]
) -> None:
    where = f"for (epoch, step, micro-batch) {place} the stream delivered"
    if len(blobs) != len(rows):
        raise StreamError(f"{where} {len(blobs)} records, the plan has {len(rows)}; {_SAFE}")
    digests = data.digests(rows)
    for index, (blob, digest) in enumerate(zip(blobs, digests, strict=True)):
        found = hashlib.blake2b(blob, digest_size=16).digest()
        if found != digest:
            what = (
                f"the record that belongs at place {digests.index(found)}"
                if found in digests
                else "bytes that are no record of this share"
            )
            raise StreamError(
                f"{where} at place {index} {what}, expected that of row {int(rows[index])} with "
                f"digest {digest.hex()}. The reader, or storage that changed under it, is at "
                f"fault (epitaxy data verify tells); {_SAFE}"
            )


def direct_parts(
    plan: Plan, data: Data, seat: Seat, cursor: Cursor, epochs: int
) -> Generator[Part, None, None]:
    """Yields the parts of this rank's shares, read in this process."""
    steps = int(WINDOW_BYTES / share_bytes(plan, data, seat.world))
    for window in windows(plan, cursor, epochs, steps):
        yield from read(data, deal(plan, seat, window))


def record_bytes(data: Data) -> tuple[int, int]:
    """Returns about how many bytes a record with every label takes, and each atom on top."""
    fields = data.fields.values()
    per_record = sum(8 * prod(field.shape) for field in fields if not field.per_atom)
    per_atom = sum(4 * prod(field.shape) for field in fields if field.per_atom)
    return RECORD_BYTES + per_record, ATOM_BYTES + per_atom


def share_bytes(plan: Plan, data: Data, world: int) -> float:
    """Returns about how many bytes one rank's share of a step takes, on average."""
    per_record, per_atom = record_bytes(data)
    epoch_bytes = per_record * plan.num_records + per_atom * plan.num_atoms
    return max(epoch_bytes / max(plan.num_steps(0), 1) / world, 64.0)


def windows(plan: Plan, cursor: Cursor, epochs: int, most_steps: int) -> Iterator[Window]:
    """Yields what is read at once: few steps at first, later ``most_steps`` (at least one)."""
    size, start, count = 1, cursor, 0
    for step in plan.steps_from(cursor, epochs):
        start = step if count == 0 else start
        count += 1
        if count == size:
            yield start, count
            size, count = max(1, min(2 * size, most_steps)), 0
    if count:
        yield start, count


def steps_of(plan: Plan, window: Window) -> Iterator[Cursor]:
    """Yields the steps of a window."""
    start, count = window
    return islice(plan.steps_from(start, sys.maxsize), count)


def deal(plan: Plan, seat: Seat, window: Window) -> list[Dealt]:
    """Returns the rows of every part of a window's steps."""
    return [
        (step.epoch, step.step, index, rows)
        for step in steps_of(plan, window)
        for index, rows in enumerate(
            plan.share(step.epoch, step.step, seat.rank, seat.world, seat.micro_batches)
        )
    ]


def read(data: Data, dealt: Sequence[Dealt]) -> list[Part]:
    """Returns the parts with their records.

    One read in storage order: a compressed block is decoded once per window, not once per share.
    """
    wanted = np.unique(np.concatenate([rows for *_, rows in dealt]))
    blobs: dict[int, bytes] = dict(zip(wanted.tolist(), data.read(wanted), strict=True))
    return [
        (epoch, step, index, [blobs[row] for row in rows.tolist()])
        for epoch, step, index, rows in dealt
    ]
