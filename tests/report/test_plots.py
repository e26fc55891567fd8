"""Pictures are drawn for all sizes of data, extremes included."""

from __future__ import annotations

import numpy as np
import pytest

from epitaxy.predict.evaluation import Parity, quantity_of
from epitaxy.report.plots import DENSE, parity

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("count", [1, 100, DENSE + 500])
def test_parity_of_few_and_many(count: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=count)
    labels[0] = 1000.0  # an outlier must not squeeze the rest, nor be lost
    predicted = labels + rng.normal(scale=0.1, size=count)
    predicted[-1] = np.nan
    values = Parity(labels, predicted, np.arange(count))
    quantity = quantity_of(
        values, unit="eV/Å", num_records=count, training_mean=None, reference=None
    )
    assert parity("forces", quantity, values).startswith(PNG)
