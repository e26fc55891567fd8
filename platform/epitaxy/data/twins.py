"""Records of one data set that repeat a structure exactly, and whether their labels agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from epitaxy.data.physics import Check
from epitaxy.graph.record import CrystalRecord

_SHOWN = 5


@dataclass
class Twins:
    """Notes every structure; about 150 bytes for each.

    Equal are atomic numbers in order, positions, cell and periodicity, to the last bit: what a
    script that writes a file twice produces. Fingerprints find the other duplicates.
    """

    _seen: dict[bytes, tuple[bytes, str]] = field(default_factory=dict)
    _repeated: int = 0
    _differing: int = 0
    _examples: list[str] = field(default_factory=list)

    def add(self, record: CrystalRecord) -> None:
        """Takes note of ``record``; compositions have no structure to repeat."""
        if record.is_composition:
            return
        structure, labels = bytes.fromhex(record.structure_digest()), _labels_digest(record)
        known, first = self._seen.setdefault(structure, (labels, record.id))
        if first == record.id:
            return
        self._repeated += 1
        if known != labels:
            self._differing += 1
            self._examples.insert(self._differing - 1, f"{first} and {record.id}")
        else:
            self._examples.append(f"{first} and {record.id}")
        del self._examples[_SHOWN:]

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


def _labels_digest(record: CrystalRecord) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for name, label in sorted(record.labels.items()):
        digest.update(name.encode())
        digest.update(label.value.tobytes())
    return digest.digest()
