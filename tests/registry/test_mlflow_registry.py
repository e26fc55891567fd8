"""What only the MLflow registry can get wrong: where sqlite lies, and foreign entries."""

import shutil
from pathlib import Path

import pytest

from epitaxy.errors import RegistryError
from epitaxy.registry.mlflow_registry import MlflowRegistry, refuse_network_disk

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local\\040disk xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "refused"),
    [("/home/me/mlflow.db", True), ("/data/mlflow.db", False), ("/home/local disk/m.db", False)],
)
def test_sqlite_is_refused_on_network_disks(tmp_path: Path, path: str, refused: bool):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    if refused:
        with pytest.raises(RegistryError, match=r"network file system \(nfs4 at /home\)"):
            refuse_network_disk(Path(path), mounts)
    else:
        refuse_network_disk(Path(path), mounts)


def test_a_server_needs_an_artifact_root():
    with pytest.raises(RegistryError, match=r"registry\.artifacts=FOLDER_OR_URI"):
        MlflowRegistry("http://127.0.0.1:1")


def test_models_of_other_clients_are_ignored(tmp_path, migrated_database, model_folder):
    database = tmp_path / "mlflow.db"
    shutil.copyfile(migrated_database, database)
    registry = MlflowRegistry(f"sqlite:///{database}")
    registry._client.create_registered_model("t")
    registry._client.create_model_version("t", "file:///elsewhere")

    assert registry.list() == []
    assert registry.publish(model_folder(), "t").number == 2
    assert [v.reference for v in registry.list()] == ["t@2"]
