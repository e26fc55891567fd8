"""Magpie vectors: what a composition is like, in 145 numbers made of properties of its elements.

After Ward et al., npj Comput. Mater. 2, 16028 (2016), with the definitions and element data of
``matminer.featurizers.composition``: ``Stoichiometry``, ``ElementProperty`` with the preset magpie,
``ValenceOrbital`` of averages, ``IonProperty``. The first 144 columns and their order are those of
the file that roost_pretraining publishes; it lacks the last, whether the charges can balance.

matminer takes 3 ms and more for a composition; here the tables of its elements are read once and
the statistics are matrix products. Not to be confused with ``data.fingerprint``, which identifies
crystals.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.graph.composition import amounts_of
from epitaxy.graph.record import MAX_ATOMIC_NUMBER, CrystalRecord, Label
from epitaxy.graph.symbols import SYMBOLS, reduced_amounts

MAGPIE = "magpie"
"""Label: the vector, (145,). Each column has its own unit (``COLUMNS``)."""

SCHEME = "Magpie, element data of matminer"

NORMS = (0, 2, 3, 5, 7, 10)
"""Orders of the norms of the atomic fractions; order 0 counts the elements."""

PROPERTIES: Mapping[str, str] = {
    **dict.fromkeys(("Number", "MendeleevNumber"), ""),
    "AtomicWeight": "u",
    "MeltingT": "K",
    **dict.fromkeys(("Column", "Row"), ""),
    "CovalentRadius": "pm",
    "Electronegativity": "Pauling",
    **dict.fromkeys(("NsValence", "NpValence", "NdValence", "NfValence", "NValence"), ""),
    **dict.fromkeys(("NsUnfilled", "NpUnfilled", "NdUnfilled", "NfUnfilled", "NUnfilled"), ""),
    "GSvolume_pa": "Å³/atom",
    "GSbandgap": "eV",
    "GSmagmom": "μB/atom",
    "SpaceGroupNumber": "",
}
"""Properties of the elements, by matminer's name, and their units. ``GS…`` and the space group are
those of the ground state of the element."""

STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
"""Of each property over the elements: weighted by atomic fraction, ``mode`` that of the most
frequent element (the smallest value if several are)."""

COLUMNS: tuple[str, ...] = (
    *(f"{order}-norm" for order in NORMS),
    *(
        f"{statistic} {name}{f' ({unit})' if unit else ''}"
        for name, unit in PROPERTIES.items()
        for statistic in STATISTICS
    ),
    # Differs from Ward et al.: they give the fraction of the valence electrons in each shell; the
    # published file has the numbers, which repeat four of the means above.
    *(f"avg {shell} valence electrons" for shell in "spdf"),
    *("max ionic char", "avg ionic char"),
    "compound possible",
)
"""What each column is, with its unit."""

_SHELLS = [list(PROPERTIES).index(f"N{shell}Valence") for shell in "spdf"]
_MANY_ATOMS = 1000
_EQUAL = 1e-5
"""Relative difference up to which two elements are equally frequent, as in matminer."""

_CACHED = 16_384


@dataclass(frozen=True, eq=False)
class _Elements:
    """Properties by atomic number; NaN where unknown.

    Attributes:
        properties: (119, 22) in the order of ``PROPERTIES``.
        electronegativity: Pauling's, as pymatgen has it, (119,).
        charges: Common oxidation states of each element.
    """

    properties: Float64[np.ndarray, "119 properties"]
    electronegativity: Float64[np.ndarray, " 119"]
    charges: tuple[tuple[int, ...], ...]

    def unknown(self, number: int) -> list[str]:
        """Returns which properties of an element are not known."""
        columns = np.flatnonzero(np.isnan(self.properties[number]))
        missing = [list(PROPERTIES)[column] for column in columns]
        return missing or ["X"] * bool(np.isnan(self.electronegativity[number]))


def magpie_label(record: CrystalRecord) -> Label:
    """Returns the Magpie vector of a crystal's or a composition's elements, (145,).

    Raises:
        RecordError: If a property of an element is unknown: those of He, Ne, Ar, At, Rn, Fr and
            beyond Cm. matminer would put the mean of all elements in its place.
        ConfigError: If matminer is not installed.
    """
    amounts = reduced_amounts(amounts_of(record))
    try:
        return Label(_vector(tuple(sorted(amounts.items()))), "", SCHEME)
    except RecordError as error:
        raise RecordError(f"record {record.id!r}: {error}") from error


def magpie_vector(amounts: Mapping[int, float]) -> Float64[np.ndarray, " 145"]:
    """Returns the Magpie vector of amounts by atomic number, the same at any scale; read-only.

    Raises:
        RecordError: If a property of an element is unknown.
        ConfigError: If matminer is not installed.
    """
    return _vector(tuple(sorted(reduced_amounts(amounts).items())))


def check_fingerprint(name: str | None) -> None:
    """Refuses a ``fingerprint=`` that there is not, or that this installation cannot make.

    Raises:
        ConfigError: With the known name, or how to install matminer.
    """
    if name is None:
        return
    if name != MAGPIE:
        raise ConfigError(f"fingerprint is {name!r}; {closest(name, (MAGPIE,))}")
    require_matminer()


def require_matminer() -> Path:
    """Returns the folder of matminer's element tables.

    Raises:
        ConfigError: If it is not installed.
    """
    found = find_spec("matminer")
    if found is None or found.origin is None:
        raise ConfigError(
            "Magpie vectors are made of the element data of the package matminer, which is not "
            "installed: pip install 'epitaxy[composition]'"
        )
    return Path(found.origin).parent / "utils" / "data_files" / "magpie_elementdata"


@lru_cache(maxsize=_CACHED)
def _vector(composition: tuple[tuple[int, float], ...]) -> Float64[np.ndarray, " 145"]:
    numbers = [number for number, _ in composition]
    amounts = np.array([amount for _, amount in composition], dtype=np.float64)
    elements = _elements()
    _check_known(elements, numbers)
    shares = amounts / amounts.sum()
    properties = _statistics(elements.properties[numbers], shares)
    vector = np.concatenate(
        [
            [len(shares) if p == 0 else (shares**p).sum() ** (1 / p) for p in NORMS],
            properties.ravel(),
            properties[_SHELLS, STATISTICS.index("mean")],
            _ionic_character(elements.electronegativity[numbers], shares),
            [can_balance([elements.charges[number] for number in numbers], dict(composition))],
        ]
    )
    vector.flags.writeable = False
    return vector


def _statistics(
    values: Float64[np.ndarray, "elements properties"], shares: Float64[np.ndarray, " elements"]
) -> Float64[np.ndarray, "properties 6"]:
    """Returns ``STATISTICS`` of each property."""
    low, high, mean = values.min(axis=0), values.max(axis=0), shares @ values
    deviation = shares @ np.abs(values - mean)
    most = shares >= shares.max() * (1 - _EQUAL)
    mode = values[most].min(axis=0)
    return np.stack([low, high, high - low, mean, deviation, mode], axis=1)


def _ionic_character(
    electronegativity: Float64[np.ndarray, " elements"], shares: Float64[np.ndarray, " elements"]
) -> tuple[float, float]:
    """Returns the largest and the mean ionic character 1 − exp(−Δχ²/4) of pairs of elements.

    The mean is Σ xᵢ xⱼ Iᵢⱼ over i < j; both are 0 for an element.
    """
    difference = electronegativity[:, None] - electronegativity
    character = 1.0 - np.exp(-0.25 * difference**2)
    return float(character.max()), float(shares @ np.triu(character, 1) @ shares)


def can_balance(charges: Collection[Collection[int]], amounts: Mapping[int, float]) -> bool:
    """Returns whether charges from each element's list, one for each of its atoms, can add up to 0.

    Atoms of one element may differ (Fe3O4). An element alone always can.

    Args:
        charges: Oxidation states of each element of ``amounts``, in its order.
        amounts: Number of atoms of each element. Where they are no whole numbers, or more than
            1000 together, any mean between the lowest and the highest charge of an element counts
            as possible (matminer refuses fractions).
    """
    if len(amounts) < 2:
        return True
    if not all(charges):
        return False
    counts = amounts.values()
    if any(count != int(count) for count in counts) or sum(counts) > _MANY_ATOMS:
        low = sum(min(states) * count for states, count in zip(charges, counts, strict=True))
        high = sum(max(states) * count for states, count in zip(charges, counts, strict=True))
        return low <= 0 <= high
    # The sums within reach are the bits of an integer; the lowest charges are bit 0.
    reached, lowest = 1, 0
    for states, count in zip(charges, counts, strict=True):
        first = min(states)
        steps = [state - first for state in states]
        lowest += first * int(count)
        for _ in range(int(count)):
            sums = 0
            for step in steps:
                sums |= reached << step
            reached = sums
    return lowest <= 0 and bool(reached >> -lowest & 1)


def _check_known(elements: _Elements, numbers: Collection[int]) -> None:
    unknown = {number: elements.unknown(number) for number in numbers}
    told = [f"{SYMBOLS[number]} ({', '.join(names)})" for number, names in unknown.items() if names]
    if told:
        raise RecordError(f"no Magpie vector: unknown properties of {', '.join(told)}")


@cache
def _elements() -> _Elements:
    """Reads the tables: from matminer's files, since importing it takes seconds, and pymatgen."""
    folder = require_matminer()
    properties = np.full((MAX_ATOMIC_NUMBER + 1, len(PROPERTIES)), np.nan)
    for column, name in enumerate(PROPERTIES):
        values = _table(folder / f"{name}.table")
        properties[1 : 1 + len(values), column] = values
    from pymatgen.core import Element

    elements = [Element.from_Z(number) for number in range(1, MAX_ATOMIC_NUMBER + 1)]
    return _Elements(
        properties,
        np.array([np.nan, *(float(element.data.get("X") or np.nan) for element in elements)]),
        ((), *(tuple(element.common_oxidation_states) for element in elements)),
    )


def _table(file: Path) -> list[float]:
    """Returns a value per line, in order of atomic number; NaN where the line is no number."""
    values = []
    for line in file.read_text(encoding="utf-8").splitlines()[:MAX_ATOMIC_NUMBER]:
        try:
            values.append(float(line))
        except ValueError:
            values.append(float("nan"))
    return values
