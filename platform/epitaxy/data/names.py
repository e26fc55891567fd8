"""Columns of ids or groups that are decoded only where somebody looks at them.

Ten million ids as Python strings take gigabytes; as 8-byte keys they take 80 MB, and splits, plans
and exclude lists need no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int64, UInt64

from epitaxy.data.sidecars import keys_of

_BLOCK = 65_536


class Names(Protocol):
    """A column of strings, (records,)."""

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the names of ``rows``, (rows,) of str."""
        ...

    def keys(self, seed: int = 0) -> UInt64[np.ndarray, " records"]:
        """Returns the key of every name under ``seed``; with 0 it is read, not computed."""
        ...


class StoredNames:
    """The sidecar arrays of one data set.

    Args:
        content: UTF-8 bytes of all names.
        offsets: Where each name begins, (records + 1,).
        keys: Keys of all names under seed 0; computed when needed if a data set lacks them.
    """

    def __init__(
        self, content: np.ndarray, offsets: np.ndarray, keys: np.ndarray | None = None
    ) -> None:
        self._content, self._offsets, self._keys = content, offsets, keys

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the names of ``rows``, (rows,) of str."""
        starts, stops = self._offsets[rows].tolist(), self._offsets[np.add(rows, 1)].tolist()
        return np.array(
            [
                self._content[start:stop].tobytes().decode()
                for start, stop in zip(starts, stops, strict=True)
            ],
            dtype=np.str_,
        )

    def keys(self, seed: int = 0) -> UInt64[np.ndarray, " records"]:
        """Returns the key of every name under ``seed``; with 0 it is read, not computed."""
        if seed == 0 and self._keys is not None:
            return self._keys
        keys = np.empty(len(self), np.uint64)
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)))
            keys[rows] = keys_of(self.at(rows).tolist(), seed)
        if seed == 0:
            self._keys = keys
        return keys

    @classmethod
    def of(cls, names: Sequence[str]) -> StoredNames:
        """Returns a column of names that are in memory already."""
        encoded = [str(name).encode() for name in names]
        offsets = np.cumsum([0, *map(len, encoded)])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)


class JoinedNames:
    """The columns of several data sets, one after the other."""

    def __init__(self, parts: Sequence[Names]) -> None:
        self._parts = parts
        self._offsets = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Returns the names of ``rows``, (rows,) of str."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty(len(rows), dtype=object)
        part_of_row = np.searchsorted(self._offsets, rows, side="right") - 1
        for index in np.unique(part_of_row).tolist():
            places = part_of_row == index
            found[places] = self._parts[index].at(rows[places] - self._offsets[index])
        return found.astype(np.str_)

    def keys(self, seed: int = 0) -> UInt64[np.ndarray, " records"]:
        """Returns the key of every name under ``seed``."""
        return np.concatenate([part.keys(seed) for part in self._parts])


def find_rows(names: Names, wanted: Sequence[str]) -> tuple[Int64[np.ndarray, " found"], list[str]]:
    """Returns the rows of ``wanted``, in its order, and those that are not among ``names``.

    A name that several data sets of a mixture have gives a row for each. A key only points to a
    candidate; what counts is the name.
    """
    if not len(wanted):
        return np.zeros(0, np.int64), []
    keys = names.keys()
    asked = keys_of(wanted)
    sought = np.unique(asked)
    # One pass over the column; sorting it would cost more than a short list is worth.
    places = np.searchsorted(sought, keys)
    places[places == len(sought)] = 0
    candidates = np.flatnonzero(sought[places] == keys)
    rows_of: dict[str, list[int]] = {}
    for name, row in zip(names.at(candidates).tolist(), candidates.tolist(), strict=True):
        rows_of.setdefault(name, []).append(row)
    known = [row for name in wanted for row in rows_of.get(name, ())]
    return np.array(known, dtype=np.int64), [name for name in wanted if name not in rows_of]
