"""``OUTCAR``, the text log of VASP, step by step.

Read here rather than by ``ase.io``, which does not say whether the electrons converged, passes over
an ionic step that is cut off, and fails on whatever ``CONTCAR`` lies beside the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from epitaxy.errors import RecordError
from epitaxy.graph.symbols import atomic_number

_RUN_ON = re.compile(r"(?<=\d)-(?=\d)")
"""Columns of fixed width may leave no space: ``0.12345-10.67890``."""
_ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
_LIMIT = re.compile(r"\bNELM\s*=\s*(\d+)")
_ELEMENTS = {
    "VRHFIN": re.compile(r"VRHFIN\s*=\s*([A-Z][a-z]?)"),
    "TITEL": re.compile(r"TITEL\s*=\s*\S+\s+([A-Z][a-z]?)"),
    "POTCAR": re.compile(r"POTCAR:\s*\S+\s+([A-Z][a-z]?)"),
}
_ENERGIES = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_LONGEST_BLOCK = 8
"""Lines within which the energies of a step follow their heading."""


class OutcarReader:
    """Walks the lines of an ``OUTCAR``.

    Attributes:
        steps: Complete ionic steps so far.
        inside: Whether the last lines belong to a step that is not complete.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._elements: dict[str, list[str]] = {name: [] for name in _ELEMENTS}
        self._counts: list[int] = []
        self._limit, self._iterations, self._reached = 0, 0, False
        self._entry: dict[str, Any] = {}
        self.steps, self.inside = 0, False

    def __iter__(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yields the entry of every ionic step and whether its electrons converged.

        An entry has ``numbers``, ``positions``, ``cell``, ``pbc``, ``energy`` (free, eV),
        ``energy_sigma0``, ``forces`` (eV/Å) and, if printed, ``stress`` (kbar, compression
        positive; 3×3).

        Raises:
            RecordError: If the lines are not those of an ``OUTCAR``, or end inside a step.
        """
        for line in self._lines:
            self._header(line)
            self._step(line)
            if _ENERGIES in line:
                self._read_energies()
                yield self._finish()
        if self.inside or not self.steps:
            raise RecordError(f"the file is cut off or damaged after {self.steps} ionic steps")

    def _header(self, line: str) -> None:
        for name, pattern in _ELEMENTS.items():
            if name in line and (match := pattern.search(line)):
                self._elements[name].append(match[1])
        if "ions per type" in line:
            words = line.partition("=")[2].split()
            if not all(word.isdecimal() and len(word) < 8 for word in words):
                raise RecordError(f"{line.strip()[:60]!r} is not numbers of ions")
            self._counts = [int(word) for word in words]
        elif not self._limit and "NELM" in line and (match := _LIMIT.search(line)):
            self._limit = int(match[1])

    def _step(self, line: str) -> None:
        if "Iteration" in line and (match := _ITERATION.search(line)):
            self._iterations, self.inside = int(match[1]), True
        elif "aborting loop because EDIFF is reached" in line:
            self._reached = True
        elif "direct lattice vectors" in line:
            self._entry["cell"] = np.array(
                [self._floats(next(self._lines, ""), 6)[:3] for _ in "abc"]
            )
        elif "in kB " in line:
            xx, yy, zz, xy, yz, zx = self._floats(line.partition("in kB")[2], 6)
            self._entry["stress"] = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
        elif "POSITION" in line and "TOTAL-FORCE" in line:
            next(self._lines, "")  # a rule
            rows = [self._floats(next(self._lines, ""), 6) for _ in range(sum(self._counts))]
            table = np.array(rows).reshape(-1, 6)
            self._entry |= {"positions": table[:, :3], "forces": table[:, 3:]}

    def _read_energies(self) -> None:
        for _ in range(_LONGEST_BLOCK):
            line = next(self._lines, "")
            if "TOTEN" in line:
                text = line.partition("=")[2].partition("eV")[0]
                self._entry["energy"] = self._floats(text, 1)[0]
            if "energy(sigma->0)" in line:
                text = line.rpartition("=")[2]
                self._entry["energy_sigma0"] = self._floats(text, 1)[0]
                return

    def _finish(self) -> tuple[dict[str, Any], bool]:
        wanted = ("cell", "positions", "forces", "energy", "energy_sigma0")
        missing = [name for name in wanted if name not in self._entry]
        if missing:
            raise RecordError(
                f"the file is cut off or damaged after {self.steps} ionic steps: no "
                f"{', '.join(missing)}"
            )
        entry = self._entry | {"numbers": self._numbers(), "pbc": np.ones(3, dtype=bool)}
        converged = self._reached or not self._limit or self._iterations < self._limit
        self._entry = {"cell": entry["cell"]}  # not printed again where the cell is fixed
        self.steps, self.inside, self._reached = self.steps + 1, False, False
        return entry, converged

    def _numbers(self) -> np.ndarray:
        for name, symbols in self._elements.items():
            if name == "POTCAR" and len(symbols) == 2 * len(self._counts):
                symbols = symbols[: len(self._counts)]  # each is announced twice
            if symbols and len(symbols) == len(self._counts):
                numbers = [atomic_number(symbol) for symbol in symbols]
                return np.repeat(np.array(numbers, dtype=np.int64), self._counts)
        raise RecordError("the file does not name its elements as often as numbers of ions")

    def _floats(self, text: str, count: int) -> list[float]:
        try:
            values = [float(word) for word in _RUN_ON.sub(" -", text).split()]
        except ValueError as error:
            raise RecordError(
                f"ionic step {self.steps}: {text.strip()[:60]!r} holds more than numbers"
            ) from error
        if len(values) != count:
            raise RecordError(f"the file is cut off or damaged after {self.steps} ionic steps")
        return values
