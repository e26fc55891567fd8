"""What a run is, where its objective asks for labels that follow from the records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epitaxy.data import magpie
from epitaxy.data.convert import prepare
from epitaxy.data.magpie import magpie_vector
from epitaxy.errors import ConfigError
from epitaxy.graph.composition import amounts_of
from epitaxy.graph.labels import LabelTable
from epitaxy.objectives.classification import Classification
from epitaxy.train.folders import read_json
from epitaxy.train.identity import identify, locked
from epitaxy.train.launch import launch
from epitaxy.train.settings import RunSettings, SplitSettings

MakeSettings = Callable[..., RunSettings]
SYSTEMS = {
    "_target_": "epitaxy.objectives.classification.Classification",
    "label": "crystal_system",
    "classes": 7,
    "hidden": [8],
}


class Fitting(Classification):
    """Classifies crystal systems, and keeps the mean Magpie vector of the training split."""

    fits_on = ("magpie",)

    def __init__(self) -> None:
        super().__init__("crystal_system", classes=7)
        self.labels = ("crystal_system", "magpie")

    def fit(self, table: LabelTable) -> dict[str, Any]:
        """Returns the mean of each column besides the frequencies."""
        means = np.nanmean(table.tensor("magpie"), axis=0)
        return {**super().fit(table), "magpie": means.tolist()}


@pytest.fixture(scope="module")
def kinds(crystals: Any) -> list[Any]:
    """Cubic and triclinic crystals, and a slab, which is of no crystal system."""
    salts = [crystals.rocksalt((11, 17), 5.0 + 0.05 * place) for place in range(15)]
    skewed = [crystals.triclinic(seed, 3) for seed in range(14)]
    slab = crystals.fcc().replace(pbc=np.array([True, True, False]))
    return [record.replace(id=f"r{place}") for place, record in enumerate([*salts, *skewed, slab])]


@pytest.fixture(scope="module")
def folders(kinds: list[Any], tmp_path_factory: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("identity")
    prepare(kinds, folder / "plain", progress=False)
    prepare(kinds, folder / "told", symmetry=True, progress=False)
    return {name: folder / name for name in ("plain", "told")}


def test_derived_labels_train_like_stored_ones(
    folders: dict[str, Path], make_settings: MakeSettings
) -> None:
    runs = {
        name: launch(make_settings(name, data=str(folder), objective=SYSTEMS))
        for name, folder in folders.items()
    }
    plain, told = (read_json(runs[name].directory / "run.json") for name in ("plain", "told"))
    assert plain["statistics"] == told["statistics"]
    assert plain["fields"] == {"crystal_system": ""}
    assert runs["plain"].metrics == runs["told"].metrics
    assert runs["plain"].metrics["val/loss"] > 0


def test_an_objective_fits_on_derived_vectors(
    kinds: list[Any], folders: dict[str, Path], make_settings: MakeSettings
) -> None:
    pytest.importorskip("matminer", reason="matminer is in the dev extra")
    settings = make_settings(
        data=str(folders["plain"]),
        objective={"_target_": f"{__name__}.Fitting"},
        split=SplitSettings(sizes=(30, 0, 0)),
        loop={"select": "last"},
    )
    with locked(Path(settings.directory)):
        found = identify(settings).contents["statistics"]
    vectors = [magpie_vector(amounts_of(record)) for record in kinds]
    assert found["magpie"] == pytest.approx(np.mean(vectors, axis=0).tolist(), rel=1e-12)
    assert found["frequencies"]["crystal_system"] == pytest.approx([14 / 29, *[0.0] * 5, 15 / 29])


def test_without_matminer_no_run_starts(
    folders: dict[str, Path], make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(magpie, "find_spec", lambda name: None)
    objective = {"_target_": f"{__name__}.Fitting"}
    with pytest.raises(ConfigError, match=r"pip install 'epitaxy\[composition\]'"):
        identify(make_settings(data=str(folders["plain"]), objective=objective))
