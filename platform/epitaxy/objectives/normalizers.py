"""What a network learns in place of a label: the label shifted and scaled, or its logarithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from jaxtyping import Float64

from epitaxy.errors import ConfigError, NeedsError, closest
from epitaxy.shapes import GraphScalars

NormalizerName = Literal["zscore", "std_then_minmax", "minmax", "log10", "none"]
NORMALIZERS: tuple[NormalizerName, ...] = ("zscore", "std_then_minmax", "minmax", "log10", "none")
_HUGE = 1e100
"""The squares of larger labels overflow; that they are absurd is for the loss to say."""
_RANGES = {"std_then_minmax": (-1.0, 1.0), "minmax": (0.0, 1.0)}
"""Where the smallest and the largest training label go."""


@dataclass(frozen=True)
class Statistics:
    """Of the training labels, or of their logarithms with ``log10``.

    Attributes:
        mean: Mean.
        std: Unbiased standard deviation; 0 if all values are equal.
        smallest: Smallest value.
        largest: Largest value.
    """

    mean: float = 0.0
    std: float = 1.0
    smallest: float = -1.0
    largest: float = 1.0


@dataclass(frozen=True)
class Normalizer:
    """Maps a label ``y`` to ``t = (f(y) − shift) / scale``, and back.

    ``f`` is the logarithm to base 10 (``log10``) or the identity. The map follows from statistics
    of the training split alone:

    * ``zscore`` and ``log10``: mean 0 and unbiased standard deviation 1;
    * ``std_then_minmax``: the smallest training label becomes −1, the largest 1. The z-score that
      pt_ft_pairs takes before makes no difference to an affine map;
    * ``minmax``: they become 0 and 1;
    * ``none``: as it is.

    Where all training labels are equal, they are only shifted.

    # Differs from CGCNN, whose code takes mean and deviation of 500 records of all splits.

    Attributes:
        name: Which map.
        statistics: Of the training split.
    """

    name: NormalizerName = "none"
    statistics: Statistics = Statistics()

    @classmethod
    def fit(
        cls, name: NormalizerName, values: Float64[np.ndarray, " records"], label: str
    ) -> Normalizer:
        """Returns the map for the training labels ``values``.

        Raises:
            NeedsError: If there are none, or ``log10`` meets one that is not positive.
        """
        if not len(values):
            raise NeedsError(
                f"regression wants the label {label!r}, but no record of the training split has "
                f"it; leave it out (objective.leave_out={label}), or prepare data that hold it"
            )
        if name == "log10":
            if not (values > 0).all():
                raise NeedsError(
                    f"log10 of {label!r} needs positive values, the training split has "
                    f"{values.min()}; use normalizer=zscore"
                )
            values = np.log10(values)
        smallest, largest = values.min(), values.max()
        # Equal values may have a rounding error of a mean, and then of a deviation.
        greatest = max(-smallest, largest)
        unit = greatest if greatest > _HUGE else 1.0
        std = (values / unit).std(ddof=1) * unit if smallest < largest else 0.0
        numbers = (values.mean(), std, smallest, largest)
        return cls(name, Statistics(*(float(number) for number in numbers)))

    @property
    def scale(self) -> float:
        """How much of ``f(y)`` a step of 1 in ``t`` is; never 0."""
        if self.name == "none":
            return 1.0
        statistics = self.statistics
        if self.name in _RANGES:
            low, high = _RANGES[self.name]
            scale = (statistics.largest - statistics.smallest) / (high - low)
        else:
            scale = statistics.std
        return scale if scale > 0 else 1.0

    @property
    def shift(self) -> float:
        """``f(y)`` where ``t`` is 0."""
        if self.name == "none":
            return 0.0
        if self.name in _RANGES:
            return self.statistics.smallest - _RANGES[self.name][0] * self.scale
        return self.statistics.mean

    @property
    def is_range(self) -> bool:
        """Whether the range of the training labels sets the scale."""
        return self.name in _RANGES

    def normalised(self, values: GraphScalars) -> GraphScalars:
        """Returns ``t``."""
        if self.name == "log10":
            values = values.log10()
        return (values - self.shift) / self.scale

    def restored(self, outputs: GraphScalars) -> GraphScalars:
        """Returns ``y``."""
        values = outputs * self.scale + self.shift
        return 10.0**values if self.name == "log10" else values

    def deviation(self, outputs: GraphScalars, std: GraphScalars) -> GraphScalars:
        """Returns the standard deviation of ``y`` given that of ``t``; of a logarithm to 1st order.

        Args:
            outputs: ``t``.
            std: Of ``t``.
        """
        deviation = std * self.scale
        if self.name == "log10":
            return deviation * math.log(10.0) * self.restored(outputs)
        return deviation


def normalizer_names(
    chosen: str | Mapping[str, str], labels: Sequence[str]
) -> dict[str, NormalizerName]:
    """Returns the normaliser of each label.

    Args:
        chosen: One for all, or one by label.
        labels: Names of all labels.

    Raises:
        ConfigError: If a name is unknown, or a label has none.
    """
    by_label = dict.fromkeys(labels, chosen) if isinstance(chosen, str) else dict(chosen)
    for label, name in by_label.items():
        if label not in labels:
            raise ConfigError(f"normalizer names the label {label!r}; {closest(label, labels)}")
        if name not in NORMALIZERS:
            raise ConfigError(f"unknown normalizer {name!r}; {closest(str(name), NORMALIZERS)}")
    missing = [label for label in labels if label not in by_label]
    if missing:
        raise ConfigError(
            f"normalizer has an entry for some labels but none for {missing}; give each label "
            "one, or a single name for all"
        )
    return {label: cast(NormalizerName, by_label[label]) for label in labels}
