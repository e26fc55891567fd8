"""Records of one data set that repeat a structure exactly, and whether their labels agree."""

from __future__ import annotations

import hashlib
from array import array

from epitaxy.data.key_table import KeyTable
from epitaxy.data.physics import Check
from epitaxy.graph.record import CrystalRecord

_SHOWN = 5


class Twins:
    """Notes every structure; about 100 bytes for each.

    Equal are atomic numbers in order, positions, cell and periodicity, to the last bit: what a
    script that writes a file twice produces. Fingerprints find the other duplicates.
    """

    def __init__(self) -> None:
        self._rows = KeyTable()
        self._labels = array("Q")
        self._names, self._ends = bytearray(), array("q", [0])
        self._repeated = 0
        self._differing = 0
        self._examples: list[str] = []

    def add(self, record: CrystalRecord) -> None:
        """Takes note of ``record``; compositions have no structure to repeat."""
        if record.is_composition:
            return
        structure, labels = bytes.fromhex(record.structure_digest()), _labels_key(record)
        row = self._rows.find(structure)
        if row is None:
            self._note(structure, labels, record.id)
            return
        first = self._names[self._ends[row] : self._ends[row + 1]].decode()
        if first == record.id:
            return
        self._repeated += 1
        if self._labels[row] != labels:
            self._differing += 1
            self._examples.insert(self._differing - 1, f"{first} and {record.id}")
        else:
            self._examples.append(f"{first} and {record.id}")
        del self._examples[_SHOWN:]

    def _note(self, structure: bytes, labels: int, name: str) -> None:
        self._rows.add(structure, len(self._rows))
        self._labels.append(labels)
        self._names += name.encode()
        self._ends.append(len(self._names))

    def checks(self) -> list[Check]:
        """Returns what was found; nothing if no structure occurs twice."""
        if not self._repeated:
            return []
        evidence = {"repeated": self._repeated, "with_other_labels": self._differing}
        if not self._differing:
            text = (
                f"{self._repeated} records repeat the structure and all labels of another record "
                f"under another id, such as {self._examples[0]}: was a file written twice?"
            )
            return [Check("repeated_structures", "suspicious", text, evidence)]
        text = (
            f"{self._repeated} records repeat the structure of another record exactly, "
            f"{self._differing} of them with other labels, such as {self._examples[0]}: one of the "
            "two must be wrong, or they were computed in two ways. Leave one of each out, or give "
            "the two ways two label schemes."
        )
        return [Check("repeated_structures", "suspicious", text, evidence)]


def _labels_key(record: CrystalRecord) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for name, label in sorted(record.labels.items()):
        digest.update(name.encode())
        digest.update(label.value.tobytes())
    return int.from_bytes(digest.digest(), "big")
