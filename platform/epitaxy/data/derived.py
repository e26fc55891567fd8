"""Labels that follow from a record itself: made when an objective asks and the data set lacks them.

``prepare symmetry=true fingerprint=magpie`` stores the same labels at import; then nothing is
computed in training.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from functools import partial
from threading import Lock

import numpy as np

from epitaxy.data import magpie, symmetry
from epitaxy.data.key_table import KEY_BYTES, KeyTable
from epitaxy.data.mixture import Data, members_of
from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.graph.record import CrystalRecord, Label, LabelField

REMEMBERED = 1 << 18
"""Structures whose space group is kept in memory, 200 bytes each; it takes spglib milliseconds."""

FIT_RECORDS: Mapping[str, int] = {
    magpie.MAGPIE: 20_000,
    symmetry.SPACE_GROUP: 2_000,
    symmetry.CRYSTAL_SYSTEM: 2_000,
}
"""Training records, an even sample, for which a label is derived before a run starts, to fit
statistics on: 10 s of work for each."""

logger = logging.getLogger(__name__)

_FIELDS: Mapping[str, LabelField] = {
    magpie.MAGPIE: LabelField(magpie.MAGPIE, "", (len(magpie.COLUMNS),), scheme=magpie.SCHEME),
    symmetry.SPACE_GROUP: LabelField(symmetry.SPACE_GROUP, "", scheme=symmetry.scheme()),
    symmetry.CRYSTAL_SYSTEM: LabelField(symmetry.CRYSTAL_SYSTEM, "", scheme=symmetry.scheme()),
}


def derivable() -> Mapping[str, LabelField]:
    """Returns the labels that can be derived and what they look like.

    Crystals have all of them; compositions, molecules and surfaces have ``magpie`` only.
    """
    return _FIELDS


def to_derive(data: Data, names: Collection[str]) -> tuple[str, ...]:
    """Returns those of the labels ``names`` that records of ``data`` need to be given.

    A data set lacks them. If another one of a mixture has them, they are of the same scheme.
    """
    known = {**_FIELDS, **data.fields}
    return tuple(
        name
        for name in names
        if name in _FIELDS
        and known[name] == _FIELDS[name]
        and any(name not in member.fields for member in members_of(data))
    )


def require_packages(names: Collection[str]) -> None:
    """Checks that what these labels are made with is installed.

    Raises:
        ConfigError: If a package is missing, and how to install it.
    """
    if magpie.MAGPIE in names:
        magpie.require_matminer()


class LabelMaker:
    """Adds labels to records, and counts the records that cannot have them.

    What is slow to find is remembered by structure. Safe to call from several threads.

    Args:
        remembered: Structures whose space group is kept in memory.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._found: OrderedDict[str, int | str] = OrderedDict()
        self._absent: dict[str, KeyTable] = {}
        self._lock = Lock()
        self._makers: Mapping[str, Callable[[CrystalRecord], Label]] = {
            magpie.MAGPIE: magpie.magpie_label,
            symmetry.SPACE_GROUP: partial(self._symmetry, lambda group: group),
            symmetry.CRYSTAL_SYSTEM: partial(self._symmetry, symmetry.crystal_system),
        }

    def __call__(self, record: CrystalRecord, names: Collection[str]) -> CrystalRecord:
        """Returns ``record`` with those of the labels ``names`` that it lacks and can have.

        One that cannot be derived stays absent. Such records are counted, and the first, tenth,
        hundredth … of each name is logged with the reason.

        Raises:
            ConfigError: If no such label can be derived, or a package is missing.
        """
        made: dict[str, Label] = {}
        for name in names:
            if name in record.labels:
                continue
            if name not in self._makers:
                raise ConfigError(f"no label {name!r} can be derived; {closest(name, _FIELDS)}")
            try:
                made[name] = self._makers[name](record)
            except RecordError as error:
                self._note(name, record, error)
        return record.replace(labels={**record.labels, **made}) if made else record

    @property
    def absent(self) -> dict[str, int]:
        """Label to the number of different records, so far, that cannot have it."""
        with self._lock:
            return {name: len(table) for name, table in self._absent.items()}

    def _symmetry(self, value: Callable[[int], int], record: CrystalRecord) -> Label:
        return Label(np.array(float(value(self._space_group(record)))), "", symmetry.scheme())

    def _space_group(self, record: CrystalRecord) -> int:
        if not symmetry.has_symmetry(record):
            raise RecordError(f"record {record.id!r} is not periodic along three axes")
        key = record.structure_digest()
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
        if found is None:
            try:
                found = symmetry.space_group(record)
            except RecordError as error:
                found = str(error)
            with self._lock:
                self._found[key] = found
                if len(self._found) > self._remembered:
                    self._found.popitem(last=False)
        if isinstance(found, str):
            raise RecordError(found)
        return found

    def _note(self, name: str, record: CrystalRecord, reason: RecordError) -> None:
        key = hashlib.blake2b(record.id.encode(), digest_size=KEY_BYTES).digest()
        with self._lock:
            table = self._absent.setdefault(name, KeyTable())
            if table.find(key) is not None:
                return
            table.add(key, len(table))
            count = len(table)
        if count == 10 ** (len(str(count)) - 1):
            logger.warning(
                "%d record%s without the label %r, which cannot be derived: %s",
                count, "" if count == 1 else "s", name, reason,
            )  # fmt: skip


derive = LabelMaker()
"""The one of this process, whose memory all its threads share: ``derive(record, names)``."""
