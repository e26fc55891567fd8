"""Builds the element-feature tables that ``graph/elements.py`` reads.

Run ``python -m epitaxy.data.element_tables`` after a change here (needs the ``dev`` extra) and
commit the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parents[1] / "graph" / "tables"

Row = Mapping[str, Any]

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
        read: Value for a row of mendeleev's table of elements; NaN or ``None`` if unknown.
    """

    name: str
    unit: str
    bins: int
    low: float
    high: float
    logarithmic: bool
    read: Callable[[Row], float | None]

    def column(self, value: float | None) -> int | None:
        """Returns the bin of ``value``; ``None`` if it has none."""
        if value is None or math.isnan(value):
            return None
        scaled = math.log(value) if self.logarithmic else value
        index = math.floor((scaled - self.low) / (self.high - self.low) * self.bins)
        return index if 0 <= index < self.bins else None


def _is_f_block(row: Row) -> bool:
    # La to Yb and Ac to No, as in the published table; mendeleev ends them at Lu and Lr.
    return 57 <= row["atomic_number"] <= 70 or 89 <= row["atomic_number"] <= 102


def _group(row: Row) -> float:
    if _is_f_block(row):
        return 0
    return 3 if row["symbol"] == "Lu" else row["group_id"]


def _valence(row: Row) -> float:
    if _is_f_block(row):
        return 2  # the published table counts their two s electrons and nothing else
    group = _group(row)
    return group - 10 if row["block"] == "p" else group


def _block(row: Row) -> float:
    if _is_f_block(row):
        return 3
    return 2 if row["symbol"] == "Lu" else "spdf".index(row["block"])


def _volume(row: Row) -> float:
    return row["atomic_weight"] / row["density"]


CGCNN92 = (
    FeatureGroup("group", "", 19, 0, 19, False, _group),
    FeatureGroup("period", "", 7, 1, 8, False, itemgetter("period")),
    FeatureGroup("electronegativity", "Pauling", 10, 0.5, 4.0, False, itemgetter("en_pauling")),
    FeatureGroup("covalent radius", "pm", 10, 25, 250, False, itemgetter("covalent_radius_pyykko")),
    FeatureGroup("valence electrons", "", 12, 1, 13, False, _valence),
    FeatureGroup("ionisation energy", "eV", 10, 1.3, 3.3, True, itemgetter("ionisation")),
    FeatureGroup("electron affinity", "eV", 10, -3, 3.7, False, itemgetter("electron_affinity")),
    FeatureGroup("block", "s p d f", 4, 0, 4, False, _block),
    FeatureGroup("atomic volume", "cm³/mol", 10, 1.5, 4.3, True, _volume),
)
"""Xie & Grossman 2018, supplement. Bin widths are theirs; group and period have the 19 and 7
columns of the table they published, not the 18 and 9 of the text."""

CGCNN92_CORRECTIONS: dict[str, dict[str, float | None]] = {
    # What the published table was made from where the rules above and mendeleev say otherwise.
    "valence electrons": {"He": 2, "Pd": 12},  # no p shell; counted as 5s² 4d¹⁰ (really 4d¹⁰)
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
    from mendeleev.fetch import fetch_table

    elements = fetch_table("elements").set_index("atomic_number", drop=False)
    energies = fetch_table("ionizationenergies")
    first = energies[energies["ion_charge"] == 0].set_index("atomic_number")
    elements["ionisation"] = first["ionization_energy"]
    ones = {str(z): _columns(elements.loc[z]) for z in range(1, LAST_ELEMENT + 1)}
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


def _columns(row: Row) -> list[int]:
    """Returns the columns that are 1 for an element."""
    columns, offset = [], 0
    for group in CGCNN92:
        corrected = CGCNN92_CORRECTIONS.get(group.name, {})
        known = row["symbol"] in corrected
        value = corrected[row["symbol"]] if known else group.read(row)
        column = group.column(value)
        if column is not None:
            columns.append(offset + column)
        offset += group.bins
    return columns


if __name__ == "__main__":
    write(build_cgcnn92())
