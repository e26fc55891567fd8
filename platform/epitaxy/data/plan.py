"""The plan of a run: which records make up each step, and who gets which of them.

A pure function of ids, costs and a seed. Steps never depend on the number of workers; shares deal
one step to ranks and micro-batches. See ``docs/plan.md``.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from epitaxy.errors import PlanError, closest

PACKING_VERSION = 1
"""Raised whenever the rule changes that turns records into steps."""

CACHED_EPOCHS = 2
"""A prefetch thread may be one epoch ahead of the loop."""

logger = logging.getLogger(__name__)

Rows = Int64[np.ndarray, " records"]


@dataclass(frozen=True, order=True)
class Cursor:
    """The next step to run.

    Attributes:
        epoch: Passes completed.
        step: Steps completed in this pass.
    """

    epoch: int = 0
    step: int = 0

    def to_json(self) -> dict[str, int]:
        """Returns JSON-ready data."""
        return {"epoch": self.epoch, "step": self.step}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cursor:
        """Returns the cursor that ``to_json`` described.

        Raises:
            PlanError: If a counter is missing, unknown (a newer version's) or negative.
        """
        for name in data:
            if name not in ("epoch", "step"):
                raise PlanError(
                    f"the cursor has a counter {name!r} that this version cannot follow; "
                    f"{closest(name, ('epoch', 'step'))}. Resume with the version that wrote it"
                )
        try:
            cursor = cls(int(data["epoch"]), int(data["step"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"a cursor needs whole numbers epoch and step, got {data}") from error
        if min(cursor.epoch, cursor.step) < 0:
            raise PlanError(f"a cursor counts from zero, got {data}")
        return cursor


@dataclass(frozen=True)
class _Epoch:
    """One epoch's records in order (indices into the plan) and where its steps begin."""

    order: Int64[np.ndarray, " records"]
    bounds: Int64[np.ndarray, " steps_plus_1"]


class Plan:
    """Steps and shares over a set of records. Small enough to pickle into every reader.

    Args:
        ids: Ids of the plan's records; they need not be sorted.
        costs: ``edges`` and ``atoms`` of each of them.
        rows: Their rows in the data set; by default ``0 … len(ids) - 1``.
        graphs: Records per step. Exactly one of ``graphs``, ``edges`` and ``atoms`` is given.
        edges: Most edges per step: as many records as fit, in order.
        atoms: Most atoms per step.
        seed: Of the order.
        shuffle: Whether epochs are permuted; otherwise they follow the sorted ids.
        data_digest: Digest of the data set.
        selection: JSON-ready account of split, filter and excludes, for the description.

    Attributes:
        rows: Data set rows of the records, in the order of their ids.
        num_records: Records of an epoch.
        num_atoms: Atoms of an epoch.
        num_oversized: Records that exceed the budget alone; each is a step of its own.
        description: JSON-ready: everything the order depends on.
        digest: Hash of the description (16 hex digits).

    Raises:
        PlanError: If ids repeat, lengths differ, or the batch size is not exactly one positive
            number.
    """

    def __init__(
        self,
        ids: np.ndarray,
        costs: Mapping[str, Int64[np.ndarray, " records"]],
        *,
        rows: Rows | None = None,
        graphs: int | None = None,
        edges: int | None = None,
        atoms: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        data_digest: str = "",
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        batch = {"graphs": graphs, "edges": edges, "atoms": atoms}
        self._kind, self._size = _batch_rule(batch)
        by_id = _sorted_by_id(ids)
        rows = np.arange(len(ids)) if rows is None else rows
        columns = {"rows": rows, "edges": costs["edges"], "atoms": costs["atoms"]}
        for name, column in columns.items():
            if len(column) != len(ids):
                raise PlanError(f"a plan of {len(ids)} ids got {len(column)} {name}")
        self.rows, self._edges, self._atoms = (
            np.asarray(column, dtype=np.int64)[by_id] for column in columns.values()
        )
        self.num_records = len(ids)
        self.num_atoms = int(self._atoms.sum())
        self._seed, self._shuffle = seed, shuffle
        self._epochs: dict[int, _Epoch] = {}
        self.num_oversized = self._count_oversized()
        self.description: dict[str, Any] = {
            "packing_version": PACKING_VERSION,
            "data_digest": data_digest,
            "num_records": self.num_records,
            "records": digest_of("\0".join(str(name) for name in ids[by_id])),
            "batch": {self._kind: self._size},
            "costs": None if self._kind == "graphs" else digest_of(self._budgeted().tobytes()),
            "seed": seed,
            "shuffle": shuffle,
            "selection": json.loads(json.dumps(selection or {})),
        }
        self.digest = digest_of(json.dumps(self.description, sort_keys=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": {}}

    def check(self, description: Mapping[str, Any]) -> None:
        """Refuses another plan's description.

        Raises:
            PlanError: Naming every field that differs, with both values.
        """
        then, now = _flat(description), _flat(self.description)
        differing = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
        if differing:
            changes = "; ".join(
                f"{name} was {then.get(name, 'absent')!r}, is {now.get(name, 'absent')!r}"
                for name in differing
            )
            raise PlanError(
                f"this run was started with another plan: {changes}. Restore these settings to "
                "resume it, or start a new run under another name"
            )

    def num_steps(self, epoch: int) -> int:
        """Returns the number of steps of an epoch (with a budget it varies with the order)."""
        return len(self._epoch(epoch).bounds) - 1

    def step_rows(self, epoch: int, step: int) -> Rows:
        """Returns the data set rows of a step, in the order of the plan.

        Raises:
            PlanError: If the epoch has no such step.
        """
        return self.rows[self._step(epoch, step)]

    def share(self, epoch: int, step: int, rank: int, world: int, micro_batches: int) -> list[Rows]:
        """Returns the rows of each micro-batch of one rank; some may be empty.

        The most expensive record goes first, each to the least loaded of the ``world *
        micro_batches`` bins (longest processing time first: Graham 1969).

        Raises:
            PlanError: If there is no such step, or ``rank`` is not below ``world``.
        """
        if not (0 <= rank < world and micro_batches >= 1):
            raise PlanError(
                f"rank {rank} of {world} with {micro_batches} micro-batches is no share of a step"
            )
        members = self._step(epoch, step)
        bins = _deal(self._edges[members] + self._atoms[members], world * micro_batches)
        # Bins fill in order, so a small step reaches every rank before any gets a second record.
        return [self.rows[members[bins[rank + world * m]]] for m in range(micro_batches)]

    def steps_from(self, cursor: Cursor, epochs: int) -> Iterator[Cursor]:
        """Yields every step from ``cursor`` to the end of epoch ``epochs - 1``.

        Raises:
            PlanError: If ``cursor`` lies beyond the end of its epoch.
        """
        self.progress(cursor)
        start = cursor.step
        for epoch in range(cursor.epoch, epochs):
            for step in range(start, self.num_steps(epoch)):
                yield Cursor(epoch, step)
            start = 0

    def progress(self, cursor: Cursor) -> float:
        """Returns the fraction of ``cursor.epoch``'s records that earlier steps consumed, 0 to 1.

        Raises:
            PlanError: If ``cursor`` lies beyond the end of its epoch.
        """
        bounds = self._epoch(cursor.epoch).bounds
        if not 0 <= cursor.step < len(bounds):
            raise PlanError(
                f"{cursor} lies beyond the {len(bounds) - 1} steps of its epoch; it belongs to "
                "another plan"
            )
        return float(bounds[cursor.step]) / max(self.num_records, 1)

    def _step(self, epoch: int, step: int) -> Int64[np.ndarray, " records"]:
        cached, last = self._epoch(epoch), self.num_steps(epoch) - 1
        if not 0 <= step <= last:
            raise PlanError(f"epoch {epoch} has {last + 1} steps; there is no step {step}")
        return cached.order[cached.bounds[step] : cached.bounds[step + 1]]

    def _epoch(self, epoch: int) -> _Epoch:
        cached = self._epochs.get(epoch)
        if cached is None:
            order = self._permutation(epoch)
            cached = _Epoch(order, self._bounds(order))
            # A new dictionary, so that threads that share the plan need no lock.
            kept = list(self._epochs.items())[1 - CACHED_EPOCHS :]
            self._epochs = {**dict(kept), epoch: cached}
        return cached

    def _permutation(self, epoch: int) -> Int64[np.ndarray, " records"]:
        if not self._shuffle:
            return np.arange(self.num_records)
        # Raw words rather than Generator.permutation: NumPy keeps only the raw stream stable.
        key = np.array([self._seed % 2**64, epoch], dtype=np.uint64)
        words = np.random.Philox(key=key).random_raw(self.num_records)
        return np.argsort(words, kind="stable")

    def _bounds(self, order: Int64[np.ndarray, " records"]) -> Int64[np.ndarray, " steps_plus_1"]:
        if self._kind == "graphs":
            return np.append(np.arange(0, self.num_records, self._size), self.num_records)
        spent = np.cumsum(self._budgeted()[order])
        bounds = [0]
        while bounds[-1] < self.num_records:
            start = bounds[-1]
            limit = (int(spent[start - 1]) if start else 0) + self._size
            fits = int(np.searchsorted(spent, limit, side="right"))
            bounds.append(max(fits, start + 1))
        return np.array(bounds)

    def _budgeted(self) -> Int64[np.ndarray, " records"]:
        return self._atoms if self._kind == "atoms" else self._edges

    def _count_oversized(self) -> int:
        if self._kind == "graphs":
            return 0
        count = int((self._budgeted() > self._size).sum())
        if count:
            logger.warning(
                "%d of %d records exceed the budget of %d %s per step alone (largest: %d); each "
                "becomes a step of its own",
                count, self.num_records, self._size, self._kind, self._budgeted().max(),
            )  # fmt: skip
        return count


def _batch_rule(batch: Mapping[str, int | None]) -> tuple[str, int]:
    given = {name: size for name, size in batch.items() if size is not None}
    if len(given) != 1:
        raise PlanError(
            f"a step needs exactly one of batch.graphs, batch.edges and batch.atoms, got "
            f"{given or 'none'}; set the others to null"
        )
    ((name, size),) = given.items()
    if size < 1:
        raise PlanError(f"batch.{name} must be at least 1, got {size}")
    return name, size


def _sorted_by_id(ids: np.ndarray) -> Int64[np.ndarray, " records"]:
    by_id = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(ids[by_id][1:] == ids[by_id][:-1])
    if len(repeated):
        name = str(ids[by_id][repeated[0]])
        raise PlanError(f"the id {name!r} occurs more than once; ids must be unique")
    return by_id


def _deal(costs: Int64[np.ndarray, " records"], num_bins: int) -> list[Int64[np.ndarray, " _"]]:
    loads = [(0, 0, index) for index in range(num_bins)]
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    for member in np.argsort(-costs, kind="stable").tolist():
        load, count, index = loads[0]
        bins[index].append(member)
        heapq.heapreplace(loads, (load + int(costs[member]), count + 1, index))
    return [np.array(sorted(members), dtype=np.int64) for members in bins]


def digest_of(content: str | bytes) -> str:
    """Returns a short stable hash (16 hex digits)."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {name: value}
