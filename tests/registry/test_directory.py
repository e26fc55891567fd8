"""What only a folder can get wrong: half-written versions and damaged claims."""

import pytest

from epitaxy.errors import RegistryError
from epitaxy.registry.directory import DirectoryRegistry


def test_a_killed_publication_does_not_exist_and_its_number_is_not_reused(tmp_path, model_folder):
    registry = DirectoryRegistry(str(tmp_path / "models"))
    registry.publish(model_folder("a"), "t")
    killed = registry.publish(model_folder("b"), "t")
    (tmp_path / "models/t/versions/00002/sha256.json").unlink()  # written last

    assert [v.number for v in registry.list()] == [1]
    assert registry.resolve("t").number == 1
    with pytest.raises(RegistryError, match="no version 2"):
        registry.resolve(killed.reference)
    assert registry.publish(model_folder("c"), "t").number == 3


def test_a_damaged_claim_is_named(tmp_path, model_folder):
    registry = DirectoryRegistry(str(tmp_path))
    registry.publish(model_folder(), "t")
    (tmp_path / "t/versions/00001/claim.json").write_text("{")

    with pytest.raises(RegistryError, match=r"claim.json is missing or damaged"):
        registry.resolve("t")


def test_hash_file_may_name_only_the_layout(tmp_path, model_folder):
    registry = DirectoryRegistry(str(tmp_path / "models"))
    registry.publish(model_folder(), "t")
    path = tmp_path / "models/t/versions/00001/sha256.json"
    path.write_text(path.read_text().replace("README.md", "../../../README.md"))

    with pytest.raises(RegistryError, match="damaged or of a newer version"):
        registry.pull("t", tmp_path / "copy")


def test_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="cannot open the registry"):
        DirectoryRegistry("nosuchstore://bucket")
