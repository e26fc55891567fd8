"""A small prepared data set and a model folder, for the verbs that need one."""

from pathlib import Path

import pytest

from epitaxy.data.convert import prepare


@pytest.fixture(scope="session")
def small_data(tmp_path_factory, crystals) -> Path:
    """40 labelled crystals in 20 groups."""
    folder = tmp_path_factory.mktemp("data") / "small"
    prepare(crystals.many(40, max_atoms=3), folder, progress=False)
    return folder
