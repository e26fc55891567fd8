"""Arrays beside the shards: everything that plans, splits and statistics need of every record.

They are ``.npy`` files read by memory map. Writing keeps them in memory: about 200 bytes per
record plus its labels' statistics. Ids and groups stand there twice: as text, and as 8-byte keys,
so that splitting and planning ten million records touches no string.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt64

from epitaxy.graph.record import AMOUNT, CrystalRecord, Label

FOLDER = "sidecars"
NEIGHBOR_RADII = (3.0, 4.0, 5.0, 6.0, 8.0)
"""Å. Radii at which directed neighbours are counted."""
_MILLION = 1_000_000


class SidecarWriter:
    """Collects the sidecar arrays of a data set, record by record."""

    def __init__(self) -> None:
        self._texts = {
            "ids": (bytearray(), array("q", [0])),
            "groups": (bytearray(), array("q", [0])),
        }
        self._keys = {"id_keys": bytearray(), "group_keys": bytearray()}
        self._digests = bytearray()
        self._num_atoms = array("q")
        self._composition = (array("q", [0]), bytearray(), array("i"))
        self._columns: dict[str, array[float]] = {}
        self._neighbors = array("q")

    def add(self, record: CrystalRecord, digest: str, neighbors: np.ndarray) -> None:
        """Adds ``record`` with the digest of its encoded bytes (hex) and its neighbour counts."""
        for name, text in (("ids", record.id), ("groups", record.group)):
            content, offsets = self._texts[name]
            content += text.encode()
            offsets.append(len(content))
        for name, text in (("id_keys", record.id), ("group_keys", record.group)):
            self._keys[name] += key_bytes(text)
        self._digests += bytes.fromhex(digest)
        elements, counts = _composition(record)
        self._composition[0].append(self._composition[0][-1] + len(elements))
        self._composition[1].extend(elements.tobytes())
        self._composition[2].extend(counts.tolist())
        for name, label in record.labels.items():
            for statistic, value in _statistics(label).items():
                self._column(f"{statistic}.{name}").append(value)
        self._num_atoms.append(record.num_atoms)
        self._neighbors.extend(neighbors.tolist())

    def write(self, folder: Path) -> None:
        """Writes all arrays into ``folder``, which it creates."""
        folder.mkdir()
        for name, values in self.arrays().items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays by name."""
        arrays: dict[str, np.ndarray] = {
            "digests": np.frombuffer(self._digests, np.uint8).reshape(-1, 16),
            "num_atoms": _integers(self._num_atoms),
            "neighbor_radii": np.array(NEIGHBOR_RADII),
            # Column by column: a plan reads the counts of one radius.
            "neighbors": np.asfortranarray(
                np.array(self._neighbors, dtype=np.int32).reshape(-1, len(NEIGHBOR_RADII))
            ),
            "composition_offsets": _integers(self._composition[0]),
            "composition_elements": np.frombuffer(self._composition[1], np.uint8),
            "composition_counts": np.array(self._composition[2], dtype=np.int32),
        }
        for name, content in self._keys.items():
            arrays[name] = np.frombuffer(content, ">u8").astype(np.uint64)
        for name, (content, offsets) in self._texts.items():
            arrays[name] = np.frombuffer(content, np.uint8)
            arrays[f"{name}_offsets"] = _integers(offsets)
        for name in self._columns:
            arrays[name] = np.array(self._pad(name), dtype=np.float64)
        return arrays

    def _column(self, name: str) -> array[float]:
        self._columns.setdefault(name, array("d"))
        return self._pad(name)

    def _pad(self, name: str) -> array[float]:
        """Fills the rows of records that lacked the label with NaN."""
        column = self._columns[name]
        missing = len(self._num_atoms) - len(column)
        column.extend([float("nan")] * missing)
        return column


def _composition(record: CrystalRecord) -> tuple[np.ndarray, np.ndarray]:
    """Returns elements and whole counts; fractional amounts of a composition become millionths."""
    if not record.is_composition:
        return np.unique(record.numbers, return_counts=True)
    amounts = record.labels[AMOUNT].value.astype(np.float64)
    whole = np.rint(amounts)
    if np.abs(amounts - whole).max() > 1e-4 or whole.max() > _MILLION:
        whole = np.maximum(np.rint(amounts / amounts.sum() * _MILLION), 1)
    return record.numbers, whole.astype(np.int64)


def neighbor_counts(
    records: Sequence[CrystalRecord],
) -> Int64[np.ndarray, "records radii"]:
    """Returns directed neighbours of each record at ``NEIGHBOR_RADII``; none for compositions.

    Raises:
        RecordError: If a cell is so small that a count makes no sense.
    """
    from epitaxy.graph.neighbors import count_neighbors  # compiles on first use

    counts = np.zeros((len(records), len(NEIGHBOR_RADII)), dtype=np.int64)
    places = [place for place, record in enumerate(records) if not record.is_composition]
    if places:
        chosen = [records[place] for place in places]
        sizes = [record.num_atoms for record in chosen]
        counts[places] = count_neighbors(
            np.concatenate([record.positions for record in chosen]),
            np.stack([record.cell for record in chosen]),
            np.stack([record.pbc for record in chosen]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            NEIGHBOR_RADII,
        )
    return counts


def _statistics(label: Label) -> Mapping[str, float]:
    """Returns the value of a scalar label; of any other its root mean square and largest entry."""
    if not label.per_atom and label.value.ndim == 0:
        return {"scalar": float(label.value)}
    value = label.value.astype(np.float64)
    return {
        "root_mean_square": float(np.sqrt(np.mean(value**2))),
        "largest": float(np.abs(value).max()),
    }


def _integers(values: array[int]) -> Int64[np.ndarray, " values"]:
    return np.array(values, dtype=np.int64)


def key_bytes(text: str, seed: int = 0) -> bytes:
    """Returns the 8-byte key of an id or a group: BLAKE2b keyed by ``seed``, read big-endian."""
    return hashlib.blake2b(text.encode(), key=str(seed).encode(), digest_size=8).digest()


def keys_of(names: Iterable[str], seed: int = 0) -> UInt64[np.ndarray, " names"]:
    """Returns the key of each name."""
    joined = b"".join(key_bytes(name, seed) for name in names)
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def texts(content: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns the strings that were stored as UTF-8 bytes and offsets, as a numpy string array."""
    buffer, ends = content.tobytes(), offsets.tolist()
    strings = [buffer[start:end].decode() for start, end in pairwise(ends)]
    return np.array(strings, dtype=np.str_)


def composition(
    load: Callable[[str], np.ndarray], rows: np.ndarray
) -> Int64[np.ndarray, "records 119"]:
    """Returns element counts of ``rows``; ``load`` gives a sidecar array by name."""
    offsets = load("composition_offsets")
    starts, lengths = offsets[rows], offsets[np.add(rows, 1)] - offsets[rows]
    table = np.zeros((len(rows), 119), dtype=np.int64)
    index = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    index = (index + np.arange(len(index))).astype(np.int64)
    line = np.repeat(np.arange(len(rows)), lengths)
    table[line, load("composition_elements")[index]] = load("composition_counts")[index]
    return table


def interpolate_neighbors(
    radii: Float64[np.ndarray, " radii"],
    counts: Integer[np.ndarray, "records radii"],
    cutoff: float,
) -> Int64[np.ndarray, " records"]:
    """Returns directed neighbours within ``cutoff``: exact at a stored radius, else estimated.

    Between radii the count is linear in the sphere's volume; beyond the last it grows with it.
    """
    exact = np.flatnonzero(radii == cutoff)
    if len(exact):
        return counts[:, exact[0]].astype(np.int64)
    volumes = radii**3
    if cutoff > radii[-1]:
        estimate = counts[:, -1] * (cutoff**3 / volumes[-1])
    else:
        upper = int(np.searchsorted(volumes, cutoff**3))
        below = volumes[upper - 1] if upper else 0.0
        share = (cutoff**3 - below) / (volumes[upper] - below)
        estimate = counts[:, upper] * share
        if upper:
            estimate += counts[:, upper - 1] * (1 - share)
    return np.rint(estimate).astype(np.int64)
