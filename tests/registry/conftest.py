"""Model folders made by hand: the registry treats them as opaque files plus JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from epitaxy.train.folders import write_folder

MODEL = {
    "format": 1,
    "encoder": {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 8},
    "objective": {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap"},
    "units": {"gap": "eV"},
    "fields": {"gap": "eV"},
    "data": {"digest": "d1", "licence": "CC-BY-4.0"},
}


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model folder; ``weights`` tells two of them apart."""

    def make(name: str = "model", weights: bytes = b"\x00\x01weights", **changes: object) -> Path:
        def fill(folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(weights)
            (folder / "model.json").write_text(json.dumps(MODEL | changes))

        write_folder(tmp_path / name, fill)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once: its migrations take seconds."""
    from epitaxy.registry.mlflow_registry import MlflowRegistry

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowRegistry(f"sqlite:///{path}").list()
    return path
