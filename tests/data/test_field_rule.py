"""From raw values to labels: units, signs, the order of components, missing keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.data.field_rule import FieldRule, read_labels
from epitaxy.errors import RecordError


def test_pressure_of_vasp_becomes_tension() -> None:
    """-0.1 × kbar is GPa with the sign of ASE; 160.21766208 GPa are 1 eV/Å³."""
    rule = FieldRule("stress", "kBar", sign="compression_positive")
    label = rule.label("stress", np.eye(3) * 1602.1766208)
    np.testing.assert_allclose(label.value, -np.eye(3), rtol=1e-12)
    assert label.unit == "eV/Å^3"


@pytest.mark.parametrize("unit", ["eV/A", "eV/Ang", "eV/Å", "eV/angstrom"])
def test_spellings_of_a_unit(unit: str) -> None:
    label = FieldRule("f", unit, per_atom=True).label("forces", [[1, 2, 3]])
    assert (label.unit, label.per_atom, label.value.tolist()) == ("eV/Å", True, [[1, 2, 3]])


def test_conversions_say_what_was_done() -> None:
    rule = FieldRule("virial_stress", "kBar", sign="compression_positive")
    done = rule.conversion("stress")
    assert done["multiplied_by"] == pytest.approx(-0.1 / 160.21766208)
    assert (done["key"], done["from"], done["to"]) == ("virial_stress", "kbar", "eV/Å^3")
    plain = FieldRule("target", "1/cm").conversion("peak")
    assert plain == {
        "label": "peak", "key": "target", "from": "1/cm", "to": "1/cm", "multiplied_by": 1.0,
    }  # fmt: skip


def test_nearly_symmetric_stresses_are_made_symmetric() -> None:
    raw = np.eye(3)
    raw[0, 1], raw[1, 0] = 1e-5, 3e-5
    value = FieldRule("s", "eV/Å^3", sign="tension_positive").label("stress", raw).value
    assert value[0, 1] == value[1, 0] == pytest.approx(2e-5)


@pytest.mark.parametrize("raw", ["high", [1, "x"], [[1], [2, 3]], {"a": 1}])
def test_what_is_no_number_is_refused(raw: Any) -> None:
    with pytest.raises(RecordError, match=r"'gap' is .*, not a number"):
        FieldRule("gap", "eV").label("gap", raw)


def test_labels_of_a_record() -> None:
    fields = {"gap": FieldRule("g", "eV"), "mass": FieldRule("m", optional=True)}

    def labels(raw: dict[str, Any]) -> dict[str, Any]:
        return {
            k: float(v.value) for k, v in read_labels(fields, lambda r: raw[r.key], raw).items()
        }

    assert labels({"g": 1, "m": 2}) == {"gap": 1, "mass": 2}
    assert labels({"g": None}) == {}
    with pytest.raises(RecordError, match=r"no 'g' for label 'gap' .*optional: true.*Known: G"):
        labels({"G": 1})
