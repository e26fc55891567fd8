"""Runs a test once for every pair of weights and vectors of the family that its module names."""

from __future__ import annotations

import pytest
from published_models import pairs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives ``pair`` to tests of a module that names a ``FAMILY``."""
    family = getattr(metafunc.module, "FAMILY", None)
    if family is not None and "pair" in metafunc.fixturenames:
        metafunc.parametrize("pair", pairs().get(family, []), ids=str)


@pytest.fixture(autouse=True)
def _present(reference_dir: object) -> None:
    """Says clearly that the reference is absent; fails in CI then."""
