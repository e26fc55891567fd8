from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from epitaxy.errors import ConfigError, NeedsError
from epitaxy.objectives.normalizers import NORMALIZERS, Normalizer, normalizer_names

VALUES = np.array([1.0, 3.0, 8.0])
TENSOR = torch.from_numpy(VALUES)


def normalised(name: str, values: np.ndarray = VALUES) -> list[float]:
    return Normalizer.fit(name, values, "gap").normalised(torch.from_numpy(values)).tolist()


def test_values_by_hand() -> None:
    assert normalised("none") == [1.0, 3.0, 8.0]
    std = math.sqrt(13.0)  # (9 + 1 + 16) / (3 − 1)
    assert normalised("zscore") == pytest.approx([-3 / std, -1 / std, 4 / std])
    assert normalised("minmax") == pytest.approx([0, 2 / 7, 1])
    assert normalised("std_then_minmax") == pytest.approx([-1, -3 / 7, 1])
    assert normalised("log10", np.array([1.0, 100.0])) == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_a_z_score_before_the_range_makes_no_difference() -> None:
    scores = (VALUES - VALUES.mean()) / VALUES.std()  # biased, as scikit-learn's scaler has it
    ranged = 2 * (scores - scores.min()) / (scores.max() - scores.min()) - 1
    assert normalised("std_then_minmax") == pytest.approx(ranged.tolist())


def test_labels_outside_the_training_range_leave_the_interval() -> None:
    fitted = Normalizer.fit("std_then_minmax", VALUES, "gap")
    assert fitted.normalised(torch.tensor([11.5])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_restoring_undoes_it(name: str) -> None:
    fitted = Normalizer.fit(name, VALUES, "gap")
    torch.testing.assert_close(fitted.restored(fitted.normalised(TENSOR)), TENSOR)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_deviation_is_the_slope_of_the_map_back(name: str) -> None:
    fitted = Normalizer.fit(name, VALUES, "gap")
    outputs = torch.tensor([-0.7, 0.2], dtype=torch.float64)
    step = 1e-6
    slope = (fitted.restored(outputs + step) - fitted.restored(outputs - step)) / (2 * step)
    std = torch.tensor([0.3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(fitted.deviation(outputs, std), std * slope)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_equal_labels_are_only_shifted(name: str) -> None:
    equal = np.full(3, 0.1)  # whose mean is not exactly 0.1
    fitted = Normalizer.fit(name, equal, "gap")
    assert fitted.scale == 1.0
    assert Normalizer.fit(name, equal[:1], "gap").scale == 1.0


def test_what_has_no_map_is_refused() -> None:
    with pytest.raises(NeedsError, match=r"'gap', but no record .*objective\.leave_out=gap"):
        Normalizer.fit("zscore", VALUES[:0], "gap")
    with pytest.raises(NeedsError, match=r"positive values, the training split has 0\.0"):
        Normalizer.fit("log10", np.array([0.0, 1.0]), "gap")


def test_one_name_for_all_or_one_for_each() -> None:
    labels = ("gap", "modulus")
    assert normalizer_names("minmax", labels) == {"gap": "minmax", "modulus": "minmax"}
    each = {"modulus": "log10", "gap": "zscore"}
    assert normalizer_names(each, labels) == each
    with pytest.raises(ConfigError, match="did you mean 'log10'"):
        normalizer_names({**each, "modulus": "log"}, labels)
    with pytest.raises(ConfigError, match="label 'gab'; did you mean 'gap'"):
        normalizer_names({**each, "gab": "zscore"}, labels)
    with pytest.raises(ConfigError, match=r"none for \['modulus'\]"):
        normalizer_names({"gap": "zscore"}, labels)


def test_absurd_labels_overflow_in_no_statistic() -> None:
    values = np.array([1e200, 3e200, 2.0])
    statistics = Normalizer.fit("zscore", values, "gap").statistics
    assert statistics.std == pytest.approx(1e200 * np.std([1.0, 3.0, 0.0], ddof=1))
