"""Builds the element-feature tables that ``graph/elements.py`` reads.

Run ``python -m epitaxy.data.element_tables`` after a change here (needs the ``dev`` extra) and
commit the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[1] / "graph" / "tables"

LAST_ELEMENT = 100
"""The published table ends at fermium."""


@dataclass(frozen=True)
class FeatureGroup:
    """One one-hot group: the value's bin gets the 1, a missing or outlying value gets none.

    Attributes:
        name: Property.
        unit: Unit of the values, before ``logarithmic``.
        bins: Number of columns.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        logarithmic: Whether the natural logarithm of the value is binned.
        read: Value of an element of mendeleev, or ``None``.
    """

    name: str
    unit: str
    bins: int
    low: float
    high: float
    logarithmic: bool
    read: Callable[[Any], float | None]

    def column(self, value: float | None) -> int | None:
        """Returns the bin of ``value``; ``None`` if it has none."""
        if value is None:
            return None
        scaled = math.log(value) if self.logarithmic else value
        index = math.floor((scaled - self.low) / (self.high - self.low) * self.bins)
        return index if 0 <= index < self.bins else None


def _is_f_block(element: Any) -> bool:
    # La to Yb and Ac to No, as in the published table; mendeleev begins with Ce and Th.
    return 57 <= element.atomic_number <= 70 or 89 <= element.atomic_number <= 102


def _group(element: Any) -> float:
    if _is_f_block(element):
        return 0
    return 3 if element.symbol in ("Lu", "Lr") else element.group_id


def _valence(element: Any) -> float:
    # The published table counts the two s electrons of f-block elements and nothing else.
    return 2 if _is_f_block(element) else element.nvalence()


def _block(element: Any) -> float:
    if _is_f_block(element):
        return 3
    return 2 if element.symbol in ("Lu", "Lr") else "spdf".index(element.block)


CGCNN92 = (
    FeatureGroup("group", "", 19, 0, 19, False, _group),
    FeatureGroup("period", "", 7, 1, 8, False, lambda e: e.period),
    FeatureGroup("electronegativity", "Pauling", 10, 0.5, 4.0, False, lambda e: e.en_pauling),
    FeatureGroup("covalent radius", "pm", 10, 25, 250, False, lambda e: e.covalent_radius_pyykko),
    FeatureGroup("valence electrons", "", 12, 1, 13, False, _valence),
    FeatureGroup("first ionisation energy", "eV", 10, 1.3, 3.3, True, lambda e: e.ionenergies[1]),
    FeatureGroup("electron affinity", "eV", 10, -3, 3.7, False, lambda e: e.electron_affinity),
    FeatureGroup("block", "s p d f", 4, 0, 4, False, _block),
    FeatureGroup("atomic volume", "cm³/mol", 10, 1.5, 4.3, True, lambda e: e.atomic_volume),
)
"""Xie & Grossman 2018, supplement. Bin widths are theirs; group and period have the 19 and 7
columns of the table they published, not the 18 and 9 of the text."""

CGCNN92_CORRECTIONS: dict[str, dict[str, float | None]] = {
    # What the published table was made from where mendeleev gives another value today.
    # Pd: 5s² 4d¹⁰ counted, though the ground state is 4d¹⁰; Lu: without its full 4f shell.
    "valence electrons": {"Pd": 12, "Lu": 3},
    "atomic volume": {
        # The element as a liquid or solid; mendeleev now gives the gas at room temperature …
        **{"H": 14.1, "He": 31.8, "N": 17.3, "O": 14.0, "F": 17.1, "Ne": 16.8, "Cl": 18.7},
        **{"Ar": 24.2, "Br": 23.5, "Kr": 32.2, "Xe": 42.9},
        "Np": 21.1,  # … an older density …
        # … and no value was known for these.
        **dict.fromkeys(("Pm", "At", "Rn", "Fr", "Pu", "Bk", "Cf", "Es", "Fm")),
    },
}


def build_cgcnn92() -> dict[str, Any]:
    """Returns the 92 columns of CGCNN's element features, rebuilt from mendeleev's properties.

    The result equals the table published with CGCNN (``atom_init.json``) for every element from H
    to Fm; ``CGCNN92_CORRECTIONS`` lists the 23 values that this takes.
    """
    import mendeleev

    ones: dict[str, list[int]] = {}
    for number in range(1, LAST_ELEMENT + 1):
        element = mendeleev.element(number)
        ones[str(number)] = _columns(element)
    return {
        "name": "cgcnn92",
        "made_by": "epitaxy.data.element_tables",
        "values_from": f"mendeleev {mendeleev.__version__}, with the corrections listed here",
        "definition": "Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), supplement",
        "width": sum(group.bins for group in CGCNN92),
        "groups": [
            {
                "name": group.name,
                "unit": group.unit,
                "columns": group.bins,
                "range": [group.low, group.high],
                "logarithmic": group.logarithmic,
            }
            for group in CGCNN92
        ],
        "corrections": CGCNN92_CORRECTIONS,
        "ones": ones,
    }


def write(table: dict[str, Any], folder: Path = TABLES) -> Path:
    """Writes ``table`` as JSON, one element per line, and returns the file."""
    head = {key: value for key, value in table.items() if key != "ones"}
    rows = ",\n".join(f'    "{number}": {columns}' for number, columns in table["ones"].items())
    text = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
    path = folder / f"{table['name']}.json"
    path.write_text(f'{text},\n  "ones": {{\n{rows}\n  }}\n}}\n', encoding="utf-8")
    return path


def _columns(element: Any) -> list[int]:
    """Returns the columns that are 1 for ``element``."""
    columns, offset = [], 0
    for group in CGCNN92:
        corrected = CGCNN92_CORRECTIONS.get(group.name, {})
        known = element.symbol in corrected
        value = corrected[element.symbol] if known else group.read(element)
        column = group.column(value)
        if column is not None:
            columns.append(offset + column)
        offset += group.bins
    return columns


if __name__ == "__main__":
    write(build_cgcnn92())
