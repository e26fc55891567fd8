from __future__ import annotations

import pytest
import torch

from epitaxy.encoders.activations import activation, smooth_activation
from epitaxy.errors import ConfigError


def test_values_by_hand() -> None:
    one = torch.tensor(1.0)
    assert activation("softplus")(one).item() == pytest.approx(1.3132617)  # ln(1 + e)
    assert activation("silu")(one).item() == pytest.approx(0.7310586)  # 1 / (1 + 1/e)
    assert activation("none")(one) is one


def test_relu_is_refused_because_forces_need_curvature() -> None:
    with pytest.raises(ConfigError, match="relu has no curvature"):
        smooth_activation("relu")
