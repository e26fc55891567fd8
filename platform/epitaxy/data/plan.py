"""The plan of a run: which records make up each step, and who gets which of them.

A pure function of keys, costs and a seed. Steps never depend on the number of workers; shares deal
one step to ranks and micro-batches. See ``docs/plan.md``.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from epitaxy.data.order import (
    BLOCK,
    Keys,
    Order,
    SetShare,
    Shuffle,
    draws_of,
    mix,
    narrow,
    ranked,
    set_digest,
)
from epitaxy.errors import PlanError, closest

PACKING_VERSION = 2
"""Raised whenever the rule changes that turns records into steps."""

CACHED_EPOCHS = 2
"""A prefetch thread may be one epoch ahead of the loop."""

OVERSIZE = ("alone", "error", "skip")

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

    order: Order
    bounds: Int64[np.ndarray, " steps_plus_1"]


class Plan:
    """Steps and shares over a set of records.

    Args:
        keys: Key of each record's id (``sidecars.key_bytes``), different within a data set.
        costs: ``edges`` and ``atoms`` of each of them.
        rows: Their rows in the data set; by default ``0 … len(keys) - 1``.
        graphs: Records per step. Exactly one of ``graphs``, ``edges`` and ``atoms`` is given.
        edges: Most edges per step: as many records as fit, in order.
        atoms: Most atoms per step.
        oversize: What to do with a record that exceeds the budget by itself: a step of its own
            (``alone``), refuse the plan (``error``), or leave it out and count it (``skip``).
        shuffle: How an epoch is ordered, and its seed; by default all records are permuted.
        sets: Data sets to mix; by default all records are one.
        epoch_records: Records of an epoch where sets have weights; by default as many as there are.
        data_digest: Digest of the data set.
        selection: JSON-ready account of split, filter and excludes, for the description.

    Attributes:
        rows: Data set rows of the records.
        draws: Records that an epoch takes of each data set.
        num_records: Records of an epoch.
        num_atoms: Atoms of an epoch, on average.
        num_oversized: Records that exceed the budget by themselves.
        num_skipped: How many of them are left out.
        description: JSON-ready: everything the order depends on.
        digest: Hash of the description (16 hex digits).

    Raises:
        PlanError: If lengths differ, a setting is wrong, or a record exceeds the budget and
            ``oversize`` is ``error``.
    """

    def __init__(
        self,
        keys: Keys,
        costs: Mapping[str, Int64[np.ndarray, " records"]],
        *,
        rows: Rows | None = None,
        graphs: int | None = None,
        edges: int | None = None,
        atoms: int | None = None,
        oversize: str = "alone",
        shuffle: Shuffle | None = None,
        sets: Sequence[SetShare] = (),
        epoch_records: int | None = None,
        data_digest: str = "",
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        self._kind, self._size = _batch_rule({"graphs": graphs, "edges": edges, "atoms": atoms})
        rows = np.arange(len(keys)) if rows is None else rows
        self._sets = list(sets) or [SetShare(len(keys))]
        _check_lengths(len(keys), {"rows": rows, **costs}, self._sets)
        self._keys, self.rows = keys, np.asarray(rows, dtype=np.int64)
        self._edges, self._atoms = narrow(costs["edges"]), narrow(costs["atoms"])
        self._shuffle = shuffle = shuffle or Shuffle()
        self.num_oversized = self._treat_oversized(oversize)
        self.num_skipped = len(keys) - len(self._keys)
        self.draws = draws_of(self._sets, epoch_records)
        self.num_records = sum(self.draws)
        self.num_atoms = self._atoms_of_an_epoch()
        self._epochs: dict[int, _Epoch] = {}
        self.description: dict[str, Any] = {
            "packing_version": PACKING_VERSION,
            "data_digest": data_digest,
            "num_records": len(self._keys),
            "records": self._digest_with(None),
            "batch": {self._kind: self._size, "oversize": oversize},
            "costs": None if self._kind == "graphs" else self._digest_with(self._budgeted()),
            "seed": shuffle.seed,
            "shuffle": shuffle.by,
            "draws": self.draws,
            "selection": json.loads(json.dumps(selection or {})),
        }
        if shuffle.by == "blocks":
            firsts = np.repeat([s.first for s in self._sets], [s.size for s in self._sets])
            stored = self._digest_with(narrow(self.rows - firsts) // BLOCK)
            self.description |= {"window": shuffle.window, "stored": stored}
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

    def sample(self, count: int) -> Rows:
        """Returns the rows of ``count`` records, an even sample that is always the same."""
        if len(self.rows) <= count:
            return self.rows
        return self.rows[np.sort(ranked(mix(self._keys, (5, 5)))[:count])]

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

    def _step(self, epoch: int, step: int) -> Order:
        cached, last = self._epoch(epoch), self.num_steps(epoch) - 1
        if not 0 <= step <= last:
            raise PlanError(f"epoch {epoch} has {last + 1} steps; there is no step {step}")
        return cached.order[cached.bounds[step] : cached.bounds[step + 1]]

    def _epoch(self, epoch: int) -> _Epoch:
        cached = self._epochs.get(epoch)
        if cached is None:
            order = self._shuffle.epoch(epoch, self._keys, self.rows, self._sets, self.draws)
            cached = _Epoch(order, self._bounds(order))
            # A new dictionary, so that threads that share the plan need no lock.
            kept = list(self._epochs.items())[1 - CACHED_EPOCHS :]
            self._epochs = {**dict(kept), epoch: cached}
        return cached

    def _bounds(self, order: Order) -> Int64[np.ndarray, " steps_plus_1"]:
        if self._kind == "graphs":
            return np.append(np.arange(0, self.num_records, self._size), self.num_records)
        spent = np.cumsum(self._budgeted()[order], dtype=np.int64)
        bounds = [0]
        while bounds[-1] < self.num_records:
            start = bounds[-1]
            limit = (int(spent[start - 1]) if start else 0) + self._size
            fits = int(np.searchsorted(spent, limit, side="right"))
            bounds.append(max(fits, start + 1))
        return np.array(bounds)

    def _budgeted(self) -> Order:
        return self._atoms if self._kind == "atoms" else self._edges

    def _parts(self) -> list[slice]:
        """Returns where each data set's records stand."""
        ends = np.cumsum([share.size for share in self._sets]).tolist()
        return [slice(end - share.size, end) for end, share in zip(ends, self._sets, strict=True)]

    def _atoms_of_an_epoch(self) -> int:
        sums = [int(self._atoms[part].sum()) for part in self._parts()]
        counts = zip(sums, self.draws, self._sets, strict=True)
        return sum(total * drawn // max(share.size, 1) for total, drawn, share in counts)

    def _digest_with(self, values: np.ndarray | None) -> str:
        """Returns a hash of every record, with its value if there is one, whatever their order."""
        words = self._keys.copy()
        for share, part in zip(self._sets, self._parts(), strict=True):
            words[part] += np.uint64(share.salt)
        if values is not None:
            words += mix(values.astype(np.uint64), (3, 3))
        return set_digest(words)

    def _treat_oversized(self, policy: str) -> int:
        """Returns how many records exceed the budget, having dealt with them as asked."""
        if policy not in OVERSIZE:
            raise PlanError(f"batch.oversize is {policy!r}; {closest(policy, OVERSIZE)}")
        if self._kind == "graphs":
            return 0
        over = self._budgeted() > self._size
        count = int(over.sum())
        if not count:
            return 0
        told = (
            f"{count} of {len(over)} records exceed the budget of {self._size} {self._kind} per "
            f"step by themselves (largest: {self._budgeted().max()})"
        )
        if policy == "error":
            raise PlanError(
                f"{told}, such as row {int(self.rows[over][0])}; raise batch.{self._kind}, filter "
                "them (filter.max_atoms), or say batch.oversize=alone or skip"
            )
        if policy == "skip":
            kept = [int((~over[part]).sum()) for part in self._parts()]
            self._sets = [s._replace(size=n) for s, n in zip(self._sets, kept, strict=True)]
            for name in ("_keys", "rows", "_edges", "_atoms"):
                setattr(self, name, getattr(self, name)[~over])
        logger.warning(
            "%s; %s", told, "they are left out" if policy == "skip" else "each is a step of its own"
        )
        return count


def _check_lengths(count: int, columns: Mapping[str, np.ndarray], sets: Sequence[SetShare]) -> None:
    for name, column in columns.items():
        if len(column) != count:
            raise PlanError(f"a plan of {count} records got {len(column)} {name}")
    if sum(share.size for share in sets) != count:
        raise PlanError(f"a plan of {count} records got data sets of other sizes: {sets}")


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
