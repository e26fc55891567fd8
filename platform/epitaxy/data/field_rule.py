"""What a recipe says of one label: where it stands in a source and what its numbers mean there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from epitaxy.data.sources.arrays import Geometry, literal
from epitaxy.data.validate import CANONICAL_UNITS
from epitaxy.errors import ConfigError, RecordError, UnitError, closest
from epitaxy.graph.record import Label
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.units import ENERGY, dimension, factor, normalise

VOIGT = "xx,yy,zz,yz,xz,xy"
"""Order of six stress components in ASE."""

PER_ATOM = "/atom"
_AXES = {"x": 0, "y": 1, "z": 2}
_MAX_ASYMMETRY = 1e-3
"""Largest asymmetry of a stress, in its largest component."""
_ROUNDING = 1e-5
"""eV/Å³ (or eV, for a virial). Asymmetry below it is rounding, however small the stress."""
_LARGEST = float(np.finfo(np.float32).max)
"""Largest value per atom, which is stored in single precision."""
_NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?|nan", re.ASCII | re.IGNORECASE
)
_SIGNS = ("tension_positive", "compression_positive")


@dataclass(frozen=True)
class FieldRule:
    """Where a label stands in a source and what it means there.

    Attributes:
        key: Name of the column, key or array in the source; dots lead into nested entries
            (``outputs.energy``), ``1:301`` takes columns 1 to 300 of a table as one vector.
        unit: Unit there. ``energy``, ``forces`` and ``stress`` are converted to eV, eV/Å and
            eV/Å^3; any other label keeps its unit, which may be any text (``1/cm``). An ``energy``
            in ``eV/atom`` is multiplied by the number of atoms; a ``stress`` in a unit of energy
            is a virial and divided by the volume; ``sign`` says what its sign is, too.
        scheme: How the value came about, e.g. ``PBE uncorrected``.
        per_atom: Whether the source has one value per atom.
        sign: Of a stress: which pressure sign the source has; needed for ``stress`` only.
        components: Order of the components of a stress given as six numbers; where the order
            depends on the material, one for each element (``{Si: …, Mo: …}``, ``*`` for the rest).
        optional: Whether a record may lack the key; an empty value is a missing label in any case.
        multiply: Undoes a published scaling, together with ``add``: the value is
            ``multiply · raw + add``, in ``unit``.
        add: See ``multiply``.
        missing: Values that stand for a missing label, such as ``na`` or ``-999``; ``nan`` too.
        values: Numbers for the values of a category, such as ``{metal: 1, insulator: 0}``.
        normalizer: Transform of the target that training should use, such as ``log10``.
    """

    key: str
    unit: str = ""
    scheme: str = ""
    per_atom: bool = False
    sign: Literal["tension_positive", "compression_positive"] | None = None
    components: str | Mapping[str, str] = VOIGT
    optional: bool = False
    multiply: float = 1.0
    add: float = 0.0
    missing: tuple[str | float, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    normalizer: str = ""

    def check(self, name: str) -> None:
        """Refuses a rule that cannot work for label ``name``.

        Raises:
            UnitError: If energy, forces or stress are in an unknown unit.
            ConfigError: If the sign or the order of a stress is missing or unknown, a label is
                wrongly per atom or not, or a scaling loses the value.
        """
        self._check_types(name)
        try:
            self.scale(name)
        except UnitError as error:
            raise UnitError(f"field {name!r}: {error}") from error
        for word, number in (("multiply", self.multiply), ("add", self.add)):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ConfigError(f"field {name!r}: {word} is {number!r}, expected a number")
        if self.multiply == 0:
            raise ConfigError(f"field {name!r}: multiply is 0, which loses every value")
        if name in CANONICAL_UNITS and self.per_atom != (name == "forces"):
            wanted = "true" if name == "forces" else "false"
            raise ConfigError(f"field {name!r}: per_atom must be {wanted}")
        if name == "stress":
            self._check_stress()
        elif self.sign is not None:
            raise ConfigError(f"field {name!r}: sign is for stress only")

    def _check_types(self, name: str) -> None:
        """Refuses settings of another type, as YAML gives them for want of quotes."""
        kinds: dict[str, Any] = dict.fromkeys(("key", "unit", "scheme", "normalizer"), str)
        kinds |= {"per_atom": bool, "optional": bool, "components": (str, Mapping)}
        for setting, kind in (kinds | {"missing": tuple, "values": Mapping}).items():
            found = getattr(self, setting)
            if not isinstance(found, kind):
                raise ConfigError(
                    f"field {name!r}: {setting} is {found!r}, a {type(found).__name__}; put text "
                    "in quotes, and see FieldRule for what is expected"
                )
        for value, number in self.values.items():
            if not isinstance(number, (int, float)):
                raise ConfigError(f"field {name!r}: values gives {number!r} for {value!r}")

    def _check_stress(self) -> None:
        if self.sign not in _SIGNS:
            raise ConfigError(
                f"field 'stress': sign is {self.sign!r}; it must say 'tension_positive' (ASE) or "
                "'compression_positive' (VASP)"
            )
        by_element = {} if isinstance(self.components, str) else self.components
        for symbol in by_element:
            if symbol != "*" and symbol not in SYMBOLS[1:]:
                raise ConfigError(f"field 'stress': components for {symbol!r}, which is no element")
        for order in by_element.values() or [self.components]:
            if sorted(_order(order)) != sorted(_order(VOIGT)):
                raise ConfigError(f"field 'stress': components {order!r} must order {VOIGT!r}")

    def scale(self, name: str) -> float:
        """Returns what values of label ``name`` are multiplied by, sign included.

        Energies per atom and virials are further multiplied or divided by the size of the cell.
        """
        wanted = CANONICAL_UNITS.get(name)
        unit = self._energy_unit()[0] if name == "energy" else self.unit
        if self._is_virial(name):
            wanted = ENERGY
        scale = 1.0 if wanted is None else factor(unit, wanted)
        return -scale if self.sign == "compression_positive" else scale

    def label(self, name: str, raw: Any, geometry: Geometry | None = None) -> Label | None:
        """Returns the label for a raw value: converted, its sign turned, a stress as 3×3.

        Args:
            name: Name of the label.
            raw: The source's value.
            geometry: The crystal, for what depends on its size or elements.

        Returns:
            ``None`` if the raw value stands for a missing label.

        Raises:
            RecordError: If the value has no such form.
        """
        if self._is_missing(raw):
            return None
        with np.errstate(all="ignore"):  # of what overflows; it is refused below
            value = self._number(raw) * self.multiply + self.add
            if name == "stress":
                value = self._tensor(value, geometry)
            elif name == "energy" and value.shape != ():
                if value.size != 1:
                    raise RecordError(f"{self.key!r} has shape {value.shape}, expected one number")
                value = value.reshape(())
            elif self.per_atom and geometry is not None:
                value = self._rows(name, value, len(geometry.numbers))
            value = value * self.scale(name) * self._size(name, geometry)
            usable = np.abs(value).max(initial=0) <= (_LARGEST if self.per_atom else np.inf)
        if not usable or not np.isfinite(value).all():
            raise RecordError(
                f"label {name!r} holds NaN or infinity ({self.key!r} is {str(raw)[:40]}); if that "
                "stands for a missing value, list it under 'missing' in the recipe"
            )
        return Label(value, CANONICAL_UNITS.get(name, self.unit), self.scheme, self.per_atom)

    def conversion(self, name: str) -> dict[str, Any]:
        """Returns what was done to label ``name``, for the manifest."""
        unit = CANONICAL_UNITS.get(name, self.unit)
        record: dict[str, Any] = {"label": name, "key": self.key, "from": self.unit, "to": unit}
        if name in CANONICAL_UNITS:
            record["from"] = normalise(self.unit)
        if name == "stress":
            record |= {"sign": str(self.sign), "components": self.components}
        if (self.multiply, self.add) != (1.0, 0.0):
            record["undone"] = {"multiply": self.multiply, "add": self.add}
        if name == "energy" and self._is_per_atom_energy(name):
            record["times"] = "atoms of the cell"
        if self._is_virial(name):
            record["divided_by"] = "volume of the cell in Å^3"
        return record | {"multiplied_by": self.scale(name)}

    def _energy_unit(self) -> tuple[str, bool]:
        """Returns the unit of an energy and whether it is one per atom."""
        unit = re.sub(r"\s*/\s*", "/", self.unit.strip())
        if unit.lower().endswith(PER_ATOM):
            return unit[: -len(PER_ATOM)], True
        return unit, False

    def _is_per_atom_energy(self, name: str) -> bool:
        return name == "energy" and self._energy_unit()[1]

    def _is_virial(self, name: str) -> bool:
        return name == "stress" and dimension(self.unit) == ENERGY

    def _is_missing(self, raw: Any) -> bool:
        if raw is None:
            return True
        if not isinstance(raw, (str, int, float, np.number)):
            return False
        return any(_same(raw, value) for value in self.missing)

    def _number(self, raw: Any) -> np.ndarray:
        if self.values and isinstance(raw, (str, bool, int, float)):
            known = [number for value, number in self.values.items() if _same(raw, value)]
            if not known:
                names = map(str, self.values)
                raise RecordError(f"{self.key!r} is {str(raw)[:60]!r}; {closest(str(raw), names)}")
            raw = known[0]
        if isinstance(raw, str):
            raw = self._parsed(raw.strip())
        try:
            return np.asarray(raw, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"{self.key!r} is {str(raw)[:60]!r}, not a number") from error

    def _parsed(self, text: str) -> Any:
        """Returns the number, truth value or list that ``text`` writes out."""
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if _NUMBER.fullmatch(text):
            return float(text)
        if text[:1] in ("[", "("):
            return literal(text)
        plain = text.replace(",", ".") if text.count(",") == 1 else re.sub(r"[\s,_']", "", text)
        hint = f"; write it as plain {plain}?" if _NUMBER.fullmatch(plain) else ""
        raise RecordError(f"{self.key!r} is {text[:60]!r}, not a number{hint}")

    def _rows(self, name: str, value: np.ndarray, count: int) -> np.ndarray:
        """Returns one row per atom, also from a batch of one or from forces in one flat list."""
        if value.shape[:2] == (1, count) and value.ndim > 1 and (count > 1 or value.ndim > 2):
            value = value[0]
        if name == "forces" and value.shape == (3 * count,):
            value = value.reshape(count, 3)
        if value.shape[:1] != (count,) or (name == "forces" and value.shape != (count, 3)):
            wanted = f"({count}, 3)" if name == "forces" else f"one entry for each of {count} atoms"
            raise RecordError(f"{self.key!r} has shape {value.shape}, expected {wanted}")
        return value

    def _size(self, name: str, geometry: Geometry | None) -> float:
        if not (self._is_per_atom_energy(name) or self._is_virial(name)):
            return 1.0
        if geometry is None:
            raise RecordError(f"{self.key!r} in {self.unit!r} needs the crystal it belongs to")
        if name == "energy":
            return float(len(geometry.numbers))
        volume = abs(float(np.linalg.det(geometry.cell)))
        if not (geometry.pbc.all() and volume > 0):
            raise RecordError(f"{self.key!r} is a virial, but the cell has no volume")
        return 1.0 / volume

    def _tensor(self, value: np.ndarray, geometry: Geometry | None) -> np.ndarray:
        if value.shape in ((1, 3, 3), (1, 6), (1, 9)):
            value = value[0]
        if value.shape == (9,):
            value = value.reshape(3, 3)
        if value.shape == (6,):
            tensor = np.empty((3, 3))
            for component, entry in zip(self._components(geometry), value, strict=True):
                first, second = (_AXES[axis] for axis in component)
                tensor[first, second] = tensor[second, first] = entry
            return tensor
        if value.shape != (3, 3):
            raise RecordError(
                f"{self.key!r} has shape {value.shape}, expected 9 numbers (3×3) or 6 "
                f"({self.components})"
            )
        asymmetry = np.abs(value - value.T).max()
        rounding = _ROUNDING / abs(self.scale("stress"))
        if asymmetry > max(_MAX_ASYMMETRY * np.abs(value).max(), rounding):
            raise RecordError(f"{self.key!r} is not symmetric: it differs by {asymmetry:.3g}")
        return (value + value.T) / 2

    def _components(self, geometry: Geometry | None) -> list[str]:
        """Returns the order of six components, for this material if it depends on that."""
        if isinstance(self.components, str):
            return _order(self.components)
        numbers = [] if geometry is None else np.unique(geometry.numbers).tolist()
        symbols = [SYMBOLS[number] for number in numbers]
        orders = {self.components.get(symbol, self.components.get("*", "")) for symbol in symbols}
        if len(orders) != 1 or "" in orders:
            raise RecordError(
                f"the order of the components of {self.key!r} is stated for "
                f"{', '.join(self.components)} and does not settle {'-'.join(symbols)}; "
                "add the element to 'components' in the recipe"
            )
        return _order(orders.pop())


def _order(components: Any) -> list[str]:
    """Returns the names of components in their order; ``YX`` is ``xy``."""
    return ["".join(sorted(word.strip().lower())) for word in str(components).split(",")]


def _same(raw: Any, value: Any) -> bool:
    """Whether ``raw`` is ``value``, as a text in any case or as a number (``-999.0``, ``-999``)."""
    if str(raw).strip().lower() == str(value).strip().lower():
        return True
    if isinstance(raw, bool) or isinstance(value, bool):
        return False
    try:
        return float(raw) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False


def read_labels(
    fields: Mapping[str, FieldRule],
    lookup: Callable[[FieldRule], ArrayLike | None],
    keys: Iterable[str],
    geometry: Geometry | None = None,
) -> dict[str, Label]:
    """Returns the labels of one record.

    Args:
        fields: Label name to rule.
        lookup: Gives the raw value for a rule, ``None`` where it is empty; raises ``KeyError`` if
            the record has no such key.
        keys: Keys the record has, for the error message.
        geometry: The crystal.

    Raises:
        RecordError: If a key that is not optional is absent, or a value has the wrong form.
    """
    labels = {}
    for name, rule in fields.items():
        try:
            raw = lookup(rule)
        except KeyError as error:
            if rule.optional:
                continue
            raise RecordError(
                f"there is no {rule.key!r} for label {name!r} (say optional: true if records may "
                f"lack it); {closest(rule.key, keys)}"
            ) from error
        label = rule.label(name, raw, geometry)
        if label is not None:
            labels[name] = label
    return labels


def check_fields(fields: Mapping[str, FieldRule]) -> None:
    """Checks every rule of a source."""
    for name, rule in fields.items():
        rule.check(name)
