"""From raw values to labels: units, signs, the order of components, missing keys."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from epitaxy.data.field_rule import FieldRule, check_fields, read_labels
from epitaxy.data.recipe import Recipe
from epitaxy.data.sources.arrays import Geometry
from epitaxy.errors import ConfigError, RecordError, UnitError

KBAR = 1602.1766208
"""1 eV/Å³ in kbar: 160.21766208 GPa."""
MLEARN = {"Si": "xx,yy,zz,xy,yz,xz", "Mo": "xx,yy,zz,xy,xz,yz"}


def crystal(*numbers: int, length: float = 4.0) -> Geometry:
    count = len(numbers)
    return Geometry(np.array(numbers), np.zeros((count, 3)), np.eye(3) * length)


def value(rule: FieldRule, name: str, raw: Any, geometry: Geometry | None = None) -> np.ndarray:
    label = rule.label(name, raw, geometry)
    assert label is not None
    return label.value


def test_pressure_of_vasp_becomes_tension() -> None:
    """-0.1 × kbar is GPa with the sign of ASE; 160.21766208 GPa are 1 eV/Å³."""
    rule = FieldRule("stress", "kBar", sign="compression_positive")
    label = rule.label("stress", np.eye(3) * KBAR)
    assert label is not None
    np.testing.assert_allclose(label.value, -np.eye(3), rtol=1e-12)
    assert label.unit == "eV/Å^3"


@pytest.mark.parametrize(
    ("unit", "raw"), [("GPa", 160.21766208), ("kbar", KBAR), ("eV/Ang^3", 1.0), ("eV/A3", 1.0)]
)
def test_units_of_stress(unit: str, raw: float) -> None:
    rule = FieldRule("s", unit, sign="tension_positive")
    np.testing.assert_allclose(value(rule, "stress", np.eye(3) * raw), np.eye(3), rtol=1e-12)


@pytest.mark.parametrize("unit", ["eV/A", "eV/Ang", "eV/Å", "eV/angstrom"])
def test_spellings_of_a_unit(unit: str) -> None:
    label = FieldRule("f", unit, per_atom=True).label("forces", [[1, 2, 3]])
    assert label is not None
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
    scaled = FieldRule("target", "GPa", multiply=2.0, add=1.0).conversion("modulus")
    assert scaled["undone"] == {"multiply": 2.0, "add": 1.0}
    assert FieldRule("e", "eV/atom").conversion("energy")["times"] == "atoms of the cell"
    virial = FieldRule("v", "eV", sign="compression_positive", components=MLEARN)
    assert virial.conversion("stress")["divided_by"] == "volume of the cell in Å^3"
    json.dumps(virial.conversion("stress"))  # goes into the manifest


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("eV/atom", 1.0), ("meV/atom", 1e-3), ("Ha/atom", 27.211386245988), ("eV / atom", 1.0),
        ("kJ/mol/atom", 0.01036426965),
    ],
)  # fmt: skip
def test_energies_per_atom_are_multiplied_by_the_atoms(unit: str, factor: float) -> None:
    rule = FieldRule("e", unit)
    rule.check("energy")
    assert value(rule, "energy", -2.0, crystal(14, 14, 8)) == pytest.approx(-6.0 * factor)
    label = rule.label("energy", -2.0, crystal(14))
    assert label is not None
    assert label.unit == "eV"


def test_an_energy_per_atom_needs_a_crystal() -> None:
    with pytest.raises(RecordError, match="'e' in 'eV/atom' needs the crystal"):
        FieldRule("e", "eV/atom").label("energy", 1.0)


def test_other_labels_per_atom_keep_their_unit() -> None:
    label = FieldRule("e", "eV/atom").label("formation_energy", -2.0, crystal(14, 14))
    assert label is not None
    assert (float(label.value), label.unit) == (-2.0, "eV/atom")


def test_a_virial_is_divided_by_the_volume() -> None:
    """64 Å³: a virial of 32 eV, positive under compression, is a stress of -0.5 eV/Å³."""
    rule = FieldRule("virial", "eV", sign="compression_positive")
    rule.check("stress")
    found = value(rule, "stress", (np.eye(3) * 32).reshape(-1).tolist(), crystal(14))
    np.testing.assert_allclose(found, -0.5 * np.eye(3))
    molecule = Geometry(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    with pytest.raises(RecordError, match="virial, but the cell has no volume"):
        rule.label("stress", np.eye(3), molecule)


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        ("xx,yy,zz,yz,xz,xy", [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        ("xx,yy,zz,xy,yz,xz", [[1, 4, 6], [4, 2, 5], [6, 5, 3]]),
        ("xx,yy,zz,xy,xz,yz", [[1, 4, 5], [4, 2, 6], [5, 6, 3]]),
        ("XX, YY, ZZ, XY, YZ, ZX", [[1, 4, 6], [4, 2, 5], [6, 5, 3]]),
        ("xx,xy,xz,yy,yz,zz", [[1, 2, 3], [2, 4, 5], [3, 5, 6]]),
    ],
)
def test_six_components(components: str, expected: list[list[float]]) -> None:
    rule = FieldRule("s", "eV/Å^3", sign="tension_positive", components=components)
    rule.check("stress")
    assert value(rule, "stress", [1, 2, 3, 4, 5, 6]).tolist() == expected
    assert value(rule, "stress", [[1, 2, 3, 4, 5, 6]]).tolist() == expected


def test_the_order_may_depend_on_the_element() -> None:
    """The fourth number of mlearn is xy for both; the fifth is yz for Si and xz for Mo."""
    rule = FieldRule("s", "eV/Å^3", sign="tension_positive", components=MLEARN)
    rule.check("stress")
    raw = [0, 0, 0, 1, 2, 3]
    silicon = value(rule, "stress", raw, crystal(14, 14))
    molybdenum = value(rule, "stress", raw, crystal(42))
    assert (silicon[0, 1], silicon[1, 2], silicon[0, 2]) == (1, 2, 3)
    assert (molybdenum[0, 1], molybdenum[1, 2], molybdenum[0, 2]) == (1, 3, 2)
    for geometry in (crystal(3), crystal(14, 42), crystal(14, 3), None):
        with pytest.raises(RecordError, match=r"does not settle.*add the element"):
            rule.label("stress", raw, geometry)
    rest = FieldRule(
        "s", "eV/Å^3", sign="tension_positive", components={**MLEARN, "*": "xx,yy,zz,xy,yz,xz"}
    )
    assert value(rest, "stress", raw, crystal(3, 14))[1, 2] == 2
    with pytest.raises(RecordError, match="does not settle"):
        rest.label("stress", raw, crystal(3, 42))


def test_full_tensors_need_no_order() -> None:
    rule = FieldRule("s", "eV/Å^3", sign="tension_positive", components=MLEARN)
    expected = [[1, 4, 6], [4, 2, 5], [6, 5, 3]]
    for raw in (expected, [expected], np.ravel(expected), [np.ravel(expected)]):
        assert value(rule, "stress", raw, crystal(3)).tolist() == expected


def test_nearly_symmetric_stresses_are_made_symmetric() -> None:
    raw = np.eye(3)
    raw[0, 1], raw[1, 0] = 1e-5, 3e-5
    found = value(FieldRule("s", "eV/Å^3", sign="tension_positive"), "stress", raw)
    assert found[0, 1] == found[1, 0] == pytest.approx(2e-5)
    tiny = np.array([[1e-9, 2e-9, 0], [0, 1e-9, 0], [0, 0, 1e-9]])  # rounding, not a wrong order
    assert value(FieldRule("s", "eV/Å^3", sign="tension_positive"), "stress", tiny)[0, 1] == 1e-9


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([1, 2, 3, 4, 5], r"shape \(5,\), expected 9 numbers"),
        (3.0, r"shape \(\), expected 9"),
        (np.zeros((2, 3, 3)), r"shape \(2, 3, 3\)"),
        ([[1, 2, 0], [0, 1, 0], [0, 0, 1]], "not symmetric: it differs by 2"),
        ([[1, np.nan, 0], [np.nan, 1, 0], [0, 0, 1]], "holds NaN"),
    ],
)
def test_other_stresses_are_refused(raw: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        FieldRule("s", "eV/Å^3", sign="tension_positive").label("stress", raw)


def test_forces_come_in_rows_in_a_batch_of_one_or_flat() -> None:
    rule = FieldRule("f", "eV/Å", per_atom=True)
    rows = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    for raw in (rows, [rows], [1, 2, 3, 4, 5, 6], np.array(rows), "[[1, 2, 3], [4, 5, 6]]"):
        assert value(rule, "forces", raw, crystal(14, 14)).tolist() == rows
    assert value(rule, "forces", [1, 2, 3], crystal(14)).tolist() == [[1, 2, 3]]
    for raw in (np.zeros((3, 2)), [1, 2, 3], [[1, 2, 3]], 1.0, np.zeros((2, 2)), []):
        with pytest.raises(RecordError, match=r"'f' has shape .*, expected \(2, 3\)"):
            rule.label("forces", raw, crystal(14, 14))


def test_other_labels_per_atom() -> None:
    rule = FieldRule("m", "muB", per_atom=True)
    assert value(rule, "magmom", [1, 2], crystal(26, 26)).tolist() == [1, 2]
    assert value(rule, "magmom", [[1, 2]], crystal(26, 26)).tolist() == [1, 2]
    assert value(rule, "magmom", [[1]], crystal(26)).tolist() == [[1]]
    with pytest.raises(RecordError, match="expected one entry for each of 2 atoms"):
        rule.label("magmom", [1, 2, 3], crystal(26, 26))


@pytest.mark.parametrize("raw", ["high", [1, "x"], [[1], [2, 3]], {"a": 1}, 10**400, "1_000"])
def test_what_is_no_number_is_refused(raw: Any) -> None:
    with pytest.raises(RecordError, match=r"'gap' is .*, not a number"):
        FieldRule("gap", "eV").label("gap", raw)


@pytest.mark.parametrize(
    ("raw", "plain"), [("1,5", "1.5"), ("1 234.5", "1234.5"), ("1,234,567", "1234567")]
)
def test_local_spellings_of_numbers_are_refused_with_the_plain_one(raw: str, plain: str) -> None:
    """1,234 may be 1.234 or 1234: nobody but the author knows."""
    with pytest.raises(RecordError, match=f"not a number; write it as plain {plain}"):
        FieldRule("gap", "eV").label("gap", raw)


@pytest.mark.parametrize(
    "raw", [-2.5, [-2.5], [[-2.5]], "-2.5", " -2.5 ", np.float32(-2.5), "[-2.5]"]
)
def test_an_energy_may_come_in_a_list(raw: Any) -> None:
    assert value(FieldRule("e", "eV"), "energy", raw) == -2.5
    with pytest.raises(RecordError, match=r"shape \(2,\), expected one number"):
        FieldRule("e", "eV").label("energy", [1, 2])


@pytest.mark.parametrize(
    "raw", [float("nan"), "nan", float("inf"), "1e400", "-Infinity", [1, None]]
)
def test_not_finite_values_are_refused_with_the_remedy(raw: Any) -> None:
    with pytest.raises(RecordError, match=r"label 'gap' holds NaN or infinity.*under 'missing'"):
        FieldRule("g", "eV").label("gap", raw)


def test_values_too_large_are_refused() -> None:
    """Per atom in single precision: 1e39 would be infinite; and 1e308 kJ/mol is none in eV."""
    with pytest.raises(RecordError, match="'forces' holds NaN or infinity"):
        FieldRule("f", "eV/Å", per_atom=True).label("forces", [[1e39, 0, 0]])
    with pytest.raises(RecordError, match="'energy' holds NaN or infinity"):
        FieldRule("e", "Ha").label("energy", 1e308)


def test_missing_values() -> None:
    rule = FieldRule("g", "eV", missing=("na", -999, "nan", "-"))
    for raw in (None, "na", "NA", " na", -999, -999.0, "-999", "-999.0", float("nan"), "-"):
        assert rule.label("gap", raw) is None, raw
    assert value(rule, "gap", "-99") == -99
    assert value(FieldRule("g", missing=(0,)), "metal", False) == 0  # no number, so not the 0
    with pytest.raises(RecordError, match="not a number"):
        FieldRule("g", "eV").label("gap", "na")


def test_categories() -> None:
    rule = FieldRule("kind", values={"metal": 1, "insulator": 0})
    assert value(rule, "metallic", "metal") == 1
    assert value(rule, "metallic", "Insulator") == 0
    with pytest.raises(RecordError, match="'kind' is 'semimetal'; did you mean 'metal'"):
        rule.label("metallic", "semimetal")
    flags = FieldRule("flag", values={True: 2, False: 3})  # type: ignore[dict-item]
    assert [float(value(flags, "x", raw)) for raw in (True, "true", "False")] == [2, 2, 3]
    assert value(FieldRule("flag"), "x", "True") == 1
    assert value(FieldRule("n", values={"1": 5}), "x", 1.0) == 5


def test_published_scalings_are_undone() -> None:
    """transfer7: log10 G = 1.359251 · target + 1.359251; -1 is 0, that is 1 GPa."""
    rule = FieldRule("target", "log10(GPa)", multiply=1.359251, add=1.359251)
    assert value(rule, "log10_shear_modulus", -1.0) == pytest.approx(0, abs=1e-12)
    assert value(rule, "log10_shear_modulus", "1") == pytest.approx(2.718502)


@pytest.mark.parametrize(
    ("name", "rule", "error", "message"),
    [
        ("energy", FieldRule("e", "eVV"), UnitError, "field 'energy': unknown unit 'eVV'"),
        ("energy", FieldRule("e", "GPa"), UnitError, "measure different"),
        ("energy", FieldRule("e", 1), ConfigError, "unit is 1, a int; put text in quotes"),  # type: ignore[arg-type]
        ("gap", FieldRule("g", per_atom="no"), ConfigError, "per_atom is 'no', a str"),  # type: ignore[arg-type]
        ("gap", FieldRule("g", values=["a"]), ConfigError, "values is .'a'., a list"),  # type: ignore[arg-type]
        ("gap", FieldRule("g", values={"a": "x"}), ConfigError, "gives 'x' for 'a'"),  # type: ignore[dict-item]
        ("gap", FieldRule("g", missing="na"), ConfigError, "missing is 'na', a str"),  # type: ignore[arg-type]
        ("forces", FieldRule("f", "eV", per_atom=True), UnitError, "measure different"),
        ("forces", FieldRule("f", "eV/Å"), ConfigError, "per_atom must be true"),
        ("energy", FieldRule("e", "eV", per_atom=True), ConfigError, "per_atom must be false"),
        ("stress", FieldRule("s", "GPa"), ConfigError, "sign is None; it must say"),
        ("gap", FieldRule("g", "eV", sign="tension_positive"), ConfigError, "for stress only"),
        ("gap", FieldRule("g", "eV", multiply=0), ConfigError, "multiply is 0"),
        ("gap", FieldRule("g", "eV", add=float("nan")), ConfigError, "add is nan, expected"),
        ("gap", FieldRule("g", multiply="2"), ConfigError, "multiply is '2', expected"),  # type: ignore[arg-type]
        (
            "stress", FieldRule("s", "GPa", sign="tension_positive", components="xx,yy,zz"),
            ConfigError, "components 'xx,yy,zz' must order",
        ),
        (
            "stress", FieldRule("s", "GPa", sign="tension_positive", components={"Qq": "xx"}),
            ConfigError, "components for 'Qq', which is no element",
        ),
        (
            "stress", FieldRule("s", "GPa", sign="tension_positive", components={"*": "xx"}),
            ConfigError, "components 'xx' must order",
        ),
    ],
)  # fmt: skip
def test_rules_that_cannot_work(
    name: str, rule: FieldRule, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_fields({name: rule})


def test_one_missing_value_needs_no_list() -> None:
    """YAML: ``missing: na`` is not the letters n and a, and ``missing: 0`` is not nothing."""
    for missing, expected in (("na", ("na",)), (0, (0,)), ([-1, "x"], (-1, "x")), (None, ())):
        content = {"source": {"_target_": "a.b"}, "fields": {"g": {"key": "k", "missing": missing}}}
        assert Recipe.from_dict(content).fields["g"].missing == expected


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
