"""Orders that need no state: who comes when follows from a key, a seed and a counter.

A record's key is the hash of its id, so an order never depends on where the record is stored, nor
on which other records there are. Everything is one pass and one sort over plain arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Integer, UInt64

from epitaxy.errors import PlanError, closest

BLOCK = 256
"""Records that ``shuffle="blocks"`` keeps together: as many as a Zarr shard decodes at once."""

SHUFFLES = ("records", "blocks", "none")

_BLOCK = 1 << 14

Keys = UInt64[np.ndarray, " records"]
Order = Integer[np.ndarray, " records"]


class SetShare(NamedTuple):
    """One of the data sets that a plan mixes; its records stand together in the plan's arrays.

    Attributes:
        size: Records that it has.
        weight: Its share of an epoch, in proportion to the others'; ``None`` takes every record
            once per epoch.
        digest: Of its data: tells its order apart from that of another set with the same ids.
        first: Its first row.
    """

    size: int
    weight: float | None = None
    digest: str = ""
    first: int = 0

    @property
    def salt(self) -> int:
        """A word that stands for the data; 0 for a set that is alone."""
        digest = hashlib.blake2b(self.digest.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") if self.digest else 0


@dataclass(frozen=True)
class Shuffle:
    """How an epoch is ordered.

    Attributes:
        by: ``records`` permutes them all; ``blocks`` permutes blocks of ``BLOCK`` rows and shuffles
            within ``window`` of them; ``none`` keeps the order in which they are stored.
        seed: Of the order.
        window: Blocks that are shuffled together.

    Raises:
        PlanError: If a setting is wrong.
    """

    by: str = "records"
    seed: int = 0
    window: int = 16

    def __post_init__(self) -> None:
        if self.by not in SHUFFLES:
            raise PlanError(f"batch.shuffle is {self.by!r}; {closest(self.by, SHUFFLES)}")
        if self.window < 1:
            raise PlanError(f"batch.window must be at least 1 block, got {self.window}")

    def epoch(
        self,
        number: int,
        keys: Keys,
        rows: np.ndarray,
        sets: Sequence[SetShare],
        draws: Sequence[int],
    ) -> Order:
        """Returns which records an epoch takes, in order; with weights one may come twice.

        Args:
            number: Of the epoch.
            keys: Of all records, set by set.
            rows: Where each of them is stored.
            sets: The data sets.
            draws: Records that an epoch takes of each.
        """
        taken, start = [], 0
        for share, count in zip(sets, draws, strict=True):
            part = slice(start, start + share.size)
            drawn = self._drawn(number, keys[part], rows[part], share, count)
            taken.append(drawn + part.start)
            start += share.size
        if len(taken) == 1:
            return taken[0]
        joined = np.concatenate(taken)
        return joined if self.by == "none" else joined[merged(draws, self.seed, number)]

    def _drawn(
        self, epoch: int, keys: Keys, rows: np.ndarray, share: SetShare, count: int
    ) -> Order:
        """Returns what an epoch takes of one data set.

        A set is an endless stream, one shuffled pass after the other; an epoch takes the next
        ``count`` of it. Where it stands follows from the number of the epoch.
        """
        first, taken = epoch * count, [np.zeros(0, np.int32)]
        while count:
            number, start = divmod(first, share.size)
            stop = min(start + count, share.size)
            taken.append(self._pass(number, keys, rows, share)[start:stop])
            first, count = first + stop - start, count - (stop - start)
        return taken[1] if len(taken) == 2 else np.concatenate(taken)

    def _pass(self, number: int, keys: Keys, rows: np.ndarray, share: SetShare) -> Order:
        if self.by == "none":
            return narrow(np.arange(share.size))
        if self.by == "blocks":
            blocks = narrow(rows - share.first) // BLOCK
            return shuffled_blocks(keys, blocks, self.window, self.seed, number, share.salt)
        return shuffled(keys, self.seed, number, share.salt)


def draws_of(sets: Sequence[SetShare], epoch_records: int | None) -> list[int]:
    """Returns how many records an epoch takes of each set: largest remainders first.

    Raises:
        PlanError: If weights are missing, negative, or given to a set without records.
    """
    weights = [share.weight for share in sets if share.weight is not None]
    if not weights:
        if epoch_records is not None:
            raise PlanError("mix.records is the length of an epoch with mix.weights: give both")
        return [share.size for share in sets]
    if len(weights) != len(sets) or min(weights) < 0 or not 0 < sum(weights) < np.inf:
        raise PlanError(
            f"mix.weights must be a number for each of {len(sets)} data sets, none negative and "
            f"not all 0, got {[share.weight for share in sets]}"
        )
    empty = [place for place, share in enumerate(sets) if share.weight and not share.size]
    if empty:
        raise PlanError(
            f"data set {empty[0] + 1} of {len(sets)} has a weight in mix.weights and no record "
            "left to give; relax filter.* or split.*, or leave it out"
        )
    total = sum(share.size for share in sets) if epoch_records is None else epoch_records
    exact = np.array(weights) / sum(weights) * total
    draws = np.floor(exact).astype(np.int64)
    draws[np.argsort(draws - exact, kind="stable")[: total - int(draws.sum())]] += 1
    return [int(number) for number in draws]


def mix(words: Keys, stream: Sequence[int]) -> Keys:
    """Returns words that look random: a keyed bijection of 64-bit words (SplitMix64's finaliser).

    Args:
        words: What to mix; it is not changed.
        stream: Two words that name the stream.
    """
    first, second = (np.uint64(word) for word in stream)
    mixed = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _BLOCK):  # blocks stay in the processor's cache
        part = words[start : start + _BLOCK] ^ first
        for number in (second, first):
            part ^= part >> np.uint64(30)
            part *= np.uint64(0xBF58476D1CE4E5B9)
            part ^= part >> np.uint64(27)
            part *= np.uint64(0x94D049BB133111EB)
            part ^= part >> np.uint64(31)
            part += number
        mixed[start : start + _BLOCK] = part
    return mixed


def stream_words(seed: int, counter: int, salt: int = 0) -> tuple[int, int]:
    """Returns the two words of a stream: Philox (Salmon et al. 2011) keyed by seed and counter.

    Raw words rather than a distribution: NumPy keeps only the raw stream the same for ever.
    """
    key = np.array([seed % 2**64, counter], dtype=np.uint64)
    first, second = np.random.Philox(key=key).random_raw(2).tolist()
    return first ^ salt, second


def shuffled(keys: Keys, seed: int, counter: int, salt: int = 0) -> Order:
    """Returns a permutation of the records, even over seeds and counters."""
    return ranked(mix(keys, stream_words(seed, counter, salt)))


def ranked(words: Keys) -> Order:
    """Returns the order that sorts ``words``, equal ones as they stand.

    A word's upper bits and its index in one word sort eight times as fast as indices do. Those few
    that agree in the upper bits are put right afterwards.
    """
    index_bits = np.uint64(max(len(words) - 1, 1).bit_length())
    packed = words >> index_bits << index_bits
    packed |= np.arange(len(words), dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << index_bits) - np.uint64(1))).astype(np.int64)
    packed >>= index_bits
    alike = np.flatnonzero(packed[1:] == packed[:-1])
    if len(alike):
        places = np.union1d(alike, alike + 1)
        members = order[places]
        order[places] = members[np.lexsort((members, words[members]))]
    return narrow(order)


def shuffled_blocks(
    keys: Keys, blocks: Order, window: int, seed: int, counter: int, salt: int = 0
) -> Order:
    """Returns a permutation that reads whole blocks: blocks in random order, ``window`` at a time.

    Records are shuffled within a window, so a reader that holds ``window`` decoded blocks decodes
    each of them once.

    Args:
        keys: Of the records.
        blocks: Number of the block in which each record is stored.
        window: Blocks that are shuffled together.
        seed: Of the order.
        counter: Pass over the records.
        salt: Tells data sets apart.
    """
    stream = stream_words(seed, counter, salt)
    present = np.zeros(int(blocks.max(initial=0)) + 1, bool)
    present[blocks] = True
    names = np.flatnonzero(present)
    window_of_block = np.zeros(len(present), np.uint64)
    drawn = names[ranked(mix(names.astype(np.uint64), stream))]
    window_of_block[drawn] = np.arange(len(names)) // window
    words = mix(keys, stream) >> np.uint64(24)
    words |= window_of_block[blocks] << np.uint64(40)
    return ranked(words)


def merged(counts: Sequence[int], seed: int, counter: int) -> Order:
    """Returns in which order several sequences are taken: each keeps its order, all keep pace.

    At any point of the merged sequence each has given its share of what was taken, within one or
    two records; a random offset per record keeps the pattern from repeating.

    Args:
        counts: Length of each sequence.
        seed: Of the offsets.
        counter: Pass.

    Returns:
        Positions in the sequences laid end to end.
    """
    offsets = np.cumsum([0, *counts])
    words = mix(np.arange(offsets[-1], dtype=np.uint64), stream_words(seed, counter, _MERGE))
    time = _unit(words)
    for start, count in zip(offsets[:-1].tolist(), counts, strict=True):
        part = time[start : start + count]
        part += np.arange(count)
        part /= max(count, 1)
    return narrow(np.argsort(time, kind="stable"))


_MERGE = 0x6D65726765
"""Keeps the offsets of ``merged`` apart from the words that shuffle records."""


def set_digest(words: Keys) -> str:
    """Returns a hash of a set of words, whatever their order (32 hex digits)."""
    mixed = mix(words, (1, 2))
    total = mixed.sum(dtype=np.uint64)
    mixed *= mixed
    return f"{total:016x}{mixed.sum(dtype=np.uint64):016x}"


def _unit(words: Keys) -> Float64[np.ndarray, " words"]:
    """Returns numbers from 0 to below 1 from the upper 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def narrow(values: np.ndarray) -> Order:
    """Returns whole numbers in four bytes where they fit: plans of ten million stay small."""
    return values if values.max(initial=0) >= 2**31 else values.astype(np.int32, copy=False)
