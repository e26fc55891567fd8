"""Labels and compositions of many records as columns: what objectives fit their statistics on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from epitaxy.errors import NeedsError, closest


@dataclass(frozen=True)
class LabelTable:
    """Columns over ``records`` (only the training split reaches an objective's ``fit``).

    Attributes:
        num_atoms: Atoms per record.
        composition: Count of each element, column = atomic number, (records, 119).
        scalars: Name to values of scalar labels; NaN where missing.
        root_mean_square: Name of a per-atom label to its root mean square over components
            within each record; NaN where missing.
        largest: Name of a per-atom or tensor label to its largest absolute component.
        units: Name of every label to its unit.
        tensors: Name to whole values of vector and tensor labels, (records, …); NaN rows where
            missing. Only those that an objective ``fits_on`` are read.
    """

    num_atoms: Int64[np.ndarray, " records"]
    composition: Int64[np.ndarray, "records 119"]
    scalars: Mapping[str, Float64[np.ndarray, " records"]]
    root_mean_square: Mapping[str, Float64[np.ndarray, " records"]]
    largest: Mapping[str, Float64[np.ndarray, " records"]]
    units: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Float64[np.ndarray, "records ..."]] = field(default_factory=dict)

    def scalar(self, name: str) -> Float64[np.ndarray, " records"]:
        """Returns the column of scalar label ``name``.

        Raises:
            NeedsError: If the data set has no such scalar label.
        """
        if name not in self.scalars:
            raise NeedsError(f"no scalar label {name!r}; {closest(name, self.scalars)}")
        return self.scalars[name]

    def tensor(self, name: str) -> Float64[np.ndarray, "records ..."]:
        """Returns the values of vector or tensor label ``name``, (records, …).

        Raises:
            NeedsError: If they were not read: the objective must name the label in ``fits_on``.
        """
        if name not in self.tensors:
            raise NeedsError(
                f"no values of a label {name!r} to fit on; {closest(name, self.tensors)}"
            )
        return self.tensors[name]

    def present(self, name: str) -> Bool[np.ndarray, " records"]:
        """Returns which records carry scalar label ``name``."""
        return ~np.isnan(self.scalar(name))
