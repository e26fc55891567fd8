"""Damage to stored bytes, as disks, networks and people make it; all of it follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def flip_bits(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((1, 2, 4, 8, 64)))
    byte = rng.choice(INTERESTING)
    for place in range(start, stop):
        content[place] = byte if rng.random() < 0.5 else rng.randrange(256)


def cut(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[rng.randrange(len(content)) :]


def lengthen(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    content += rng.randbytes(rng.choice((1, 7, 8, 512)))


def drop(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice((1, 4, 8, 512))]


def repeat(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    start = rng.randrange(len(content))
    part = content[start : start + rng.choice((1, 8, 512))]
    content[start:start] = part


def splice(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    place = rng.randrange(min(len(content), len(other)))
    content[place:] = other[place:]


def exchange(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """Two blocks change places, as a store that answers with another page."""
    size = rng.choice((8, 64, 512))
    if len(content) >= 2 * size:
        one, other = (rng.randrange(len(content) // size) * size for _ in range(2))
        part = content[one : one + size]
        content[one : one + size] = content[other : other + size]
        content[other : other + size] = part


def clear(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A page that was never written."""
    start = rng.randrange(len(content)) // 512 * 512
    stop = min(len(content), start + 512)
    content[start:stop] = bytes(stop - start)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, overwrite, cut, lengthen, drop, repeat, splice, exchange, clear,
)  # fmt: skip


def damaged(rng: random.Random, contents: Sequence[bytes]) -> bytes:
    """One of ``contents`` after one to three mutations; it may by chance be as it was."""
    content = bytearray(rng.choice(contents))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if content:
            rng.choice(MUTATIONS)(rng, content, contents)
    return bytes(content)
