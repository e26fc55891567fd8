"""What every registry must do, over a local folder, an object store and MLflow."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from epitaxy.errors import RegistryError
from epitaxy.registry.contract import Reference, Registry, check_alias, check_name
from epitaxy.registry.open import open_registry


@pytest.fixture(params=["folder", "memory", "mlflow"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, migrated_database: Path) -> Registry:
    if request.param == "mlflow":
        database = tmp_path / "registry" / "mlflow.db"
        database.parent.mkdir()
        shutil.copyfile(migrated_database, database)
        return open_registry(f"sqlite:///{database}")
    if request.param == "memory":
        return open_registry(f"memory:/{tmp_path}/models")  # one store per process: own path
    return open_registry(str(tmp_path / "models"))


def test_versions_count_up_and_stay_apart(registry, model_folder, tmp_path):
    first = registry.publish(model_folder("a", b"AAAA"), "teacher", aliases=["best"])
    second = registry.publish(model_folder("b", b"BBBB"), "teacher")
    other = registry.publish(model_folder("c", b"CCCC"), "student")

    assert [first.number, second.number, other.number] == [1, 2, 1]
    assert len({first.digest, second.digest, other.digest}) == 3
    listed = [(v.name, v.number, v.aliases) for v in registry.list()]
    assert listed == [("student", 1, ()), ("teacher", 1, ("best",)), ("teacher", 2, ())]
    pulled = registry.pull("teacher@1", tmp_path / "copy")
    assert (pulled / "model.safetensors").read_bytes() == b"AAAA"


@pytest.mark.parametrize(
    ("reference", "number"),
    [("t", 3), ("t@latest", 3), ("t@2", 2), ("t@v1", 1), ("t@best", 2)],
)
def test_references_resolve(registry, model_folder, reference, number):
    for index in range(3):
        registry.publish(model_folder(f"m{index}"), "t", aliases=["best"] if index == 0 else [])
    registry.set_alias("t", "best", 2)

    assert registry.resolve(reference).number == number
    assert registry.resolve(reference).reference == f"t@{number}"


def test_latest_is_built_in(registry, model_folder):
    version = registry.publish(model_folder(), "t", aliases=["latest"])

    assert version.aliases == ()
    with pytest.raises(RegistryError, match="built in"):
        registry.set_alias("t", "Latest", 1)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("techer", "did you mean 'teacher'"),
        ("teacher@bset", "did you mean 'best'"),
        ("teacher@7", "it has \\[1\\]"),
        ("../teacher", "letters, digits"),
        ("teacher@b/c", "letters, digits"),
    ],
)
def test_unknown_references_say_what_is_known(registry, model_folder, reference, hint):
    registry.publish(model_folder(), "teacher", aliases=["best"])

    with pytest.raises(RegistryError, match=hint):
        registry.resolve(reference)


def test_pull_brings_card_hashes_and_origin(registry, model_folder, tmp_path):
    lineage = {"parent": {"reference": "base@1", "digest": "ab"}}
    version = registry.publish(model_folder(), "t", lineage=lineage)

    folder = registry.pull("t", tmp_path / "copies" / "t")

    assert json.loads((folder / "origin.json").read_text()) == {
        "registry": registry.uri,
        "reference": "t@1",
        "digest": version.digest,
    }
    assert json.loads((folder / "card.json").read_text())["parent"]["reference"] == "base@1"
    assert "base@1" in (folder / "README.md").read_text()
    with pytest.raises(RegistryError, match="exists already"):
        registry.pull("t", folder)


def stored_path(
    registry: Registry, reference: str, file: str
) -> tuple[fsspec.AbstractFileSystem, str]:
    return fsspec.core.url_to_fs(f"{registry.resolve(reference).location}/{file}")


@pytest.mark.parametrize("file", ["model.safetensors", "model.json", "card.json", "README.md"])
def test_a_changed_byte_is_refused(registry, model_folder, tmp_path, file):
    registry.publish(model_folder(), "t")
    filesystem, path = stored_path(registry, "t", file)
    content = bytearray(filesystem.cat_file(path))
    content[len(content) // 2] ^= 1
    filesystem.pipe_file(path, bytes(content))

    with pytest.raises(RegistryError, match=f"{file} was changed after publication"):
        registry.pull("t", tmp_path / "copy")
    with pytest.raises(RegistryError, match=f"{file} was changed after publication"):
        registry.verify("t")
    assert not (tmp_path / "copy").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_changed_hashes_are_refused_too(registry, model_folder, tmp_path):
    registry.publish(model_folder("a", b"good"), "t")
    registry.publish(model_folder("b", b"evil"), "evil")
    for file in ("model.safetensors", "manifest.json", "card.json", "README.md", "sha256.json"):
        filesystem, target = stored_path(registry, "t", file)
        _, source = stored_path(registry, "evil", file)
        filesystem.pipe_file(target, filesystem.cat_file(source))

    with pytest.raises(RegistryError, match="was changed after publication"):
        registry.pull("t", tmp_path / "copy")


def test_a_missing_file_is_refused(registry, model_folder, tmp_path):
    registry.publish(model_folder(), "t")
    filesystem, path = stored_path(registry, "t", "model.safetensors")
    filesystem.rm_file(path)

    with pytest.raises(RegistryError, match=r"model.safetensors is missing"):
        registry.pull("t", tmp_path / "copy")


def test_only_model_folders_are_published(registry, model_folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    damaged = model_folder()
    (damaged / "model.safetensors").write_bytes(b"cut")

    with pytest.raises(RegistryError, match="is no intact model folder"):
        registry.publish(empty, "t")
    with pytest.raises(RegistryError, match="is damaged"):
        registry.publish(damaged, "t")
    assert registry.list() == []


def test_alias_needs_an_existing_version(registry, model_folder):
    registry.publish(model_folder(), "t")

    with pytest.raises(RegistryError, match="no version 2"):
        registry.set_alias("t", "best", 2)


@pytest.fixture(params=["folder", "mlflow"])
def shared_uri(request, tmp_path: Path, migrated_database: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "models")
    shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_concurrent_publishers_get_their_own_versions(
    shared_uri: str, model_folder: Callable[..., Path]
):
    folders = [model_folder(f"m{i}", bytes([i])) for i in range(6)]
    registries = [open_registry(shared_uri) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(registries[i % 2].publish, folder, "t") for i, folder in enumerate(folders)
        ]
        versions = [job.result() for job in jobs]

    assert sorted(v.number for v in versions) == [1, 2, 3, 4, 5, 6]
    assert len({v.digest for v in versions}) == 6
    assert all(registries[0].verify(v.reference).digest == v.digest for v in versions)


def test_reference_grammar():
    assert Reference.parse("a.b-c_1@v12") == Reference("a.b-c_1", version=12)
    assert Reference.parse("x@prod-2") == Reference("x", alias="prod-2")
    for wrong in ("", "@best", "a@", "a@@b", "a b", "-a", "a@3.1"):
        with pytest.raises(RegistryError):
            Reference.parse(wrong)
    assert check_name("teacher") == "teacher"
    with pytest.raises(RegistryError, match="reads as a version"):
        check_alias("v3")
