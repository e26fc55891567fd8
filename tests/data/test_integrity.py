"""Shards are checked when they should be, and everything that is damaged is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from epitaxy.data import dataset as dataset_module
from epitaxy.data import integrity
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset, storage
from epitaxy.errors import ConfigError, ShardError


@pytest.fixture(scope="module", params=["lmdb", "zarr"])
def whole(
    request: pytest.FixtureRequest, crystals: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Thirty records in three shards."""
    out = tmp_path_factory.mktemp("data") / request.param
    prepare(crystals.many(30), out, format=request.param, shard_size=10, checks="off")
    return out


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def flip(path: Path) -> None:
    file = path if path.is_file() else sorted(path.glob("positions/c/**/*"))[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def swap(folder: Path) -> None:
    """Writes the second shard anew with two records exchanged: sound bytes in the wrong place."""
    dataset = Dataset.open(folder)
    if dataset.manifest.storage == "zarr":
        pytest.skip("compressed anew, the shard has another size")
    shard = dataset.manifest.shards[1]
    blobs = dataset.read(range(10, 20))
    blobs[3], blobs[4] = blobs[4], blobs[3]
    path = folder / shard.path
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    storage(dataset.manifest.storage).write_shard(path, 10, blobs)


def test_policies(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Dataset.open(data).verify_when == "first_read"
    monkeypatch.setattr(integrity, "LARGE_BYTES", 1000)
    assert Dataset.open(data).verify_when == "on_suspicion"
    monkeypatch.setenv("EPITAXY_VERIFY", "never")
    assert Dataset.open(data).verify_when == "never"
    assert Dataset.open(data, verify="first_read").verify_when == "first_read"
    with pytest.raises(ConfigError, match="did you mean 'never'"):
        Dataset.open(data, verify="nevr")  # type: ignore[arg-type]


def test_only_the_first_read_hashes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    check = dataset_module.check_content
    monkeypatch.setattr(
        dataset_module,
        "check_content",
        lambda folder, entry: (hashed.append(entry.path), check(folder, entry)),
    )
    Dataset.open(data).read([0, 25])
    assert len(hashed) == 2
    hashed.clear()
    dataset = Dataset.open(data, verify="on_suspicion")
    assert dataset.read([0, 25]) == Dataset.open(data, verify="never").read([0, 25])
    assert not [path for path in hashed if path.startswith("shard")]


def test_a_record_in_the_wrong_place_rouses_suspicion(data: Path) -> None:
    swap(data)
    dataset = Dataset.open(data, verify="never")
    assert [dataset.record(row).id for row in (13, 14)] == ["c0014", "c0013"]
    careful = Dataset.open(data, verify="on_suspicion")
    assert careful.record(12).id == "c0012"
    with pytest.raises(ShardError, match=r"shard-00001.*its checksum does not match"):
        careful.read([13])


def test_a_shard_that_is_cut_while_it_is_open_is_an_error(data: Path) -> None:
    """Not the end of the process by SIGBUS."""
    dataset = Dataset.open(data, verify="on_suspicion")
    dataset.read([0])
    path = data / dataset.manifest.shards[1].path
    if path.is_dir():
        pytest.skip("reads of Zarr are checked chunk by chunk")
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ShardError, match=r"shard-00001\.lmdb is damaged: 4096 bytes"):
        dataset.read([12])


def test_verify_names_every_damaged_shard(data: Path) -> None:
    dataset = Dataset.open(data)
    for index in (0, 2):
        flip(data / dataset.manifest.shards[index].path)
    with pytest.raises(ShardError) as caught:
        dataset.verify()
    first, *lines = str(caught.value).splitlines()
    assert first == "2 things are damaged:"
    assert "shard-00000" in lines[0]
    assert "(rows 0 to 9)" in lines[0]
    assert "shard-00002" in lines[1]


def test_verify_names_every_record_of_intact_files(data: Path) -> None:
    """The manifest itself was rewritten to the wrong content: only the records tell."""
    swap(data)
    found = integrity.CheckShard(Dataset.open(data, verify="never"), records=True)
    shard = Dataset.open(data).manifest.shards[1]
    assert "shard-00001" in found(shard)[0]
    rows = [text for text in found._wrong(range(10, 20)) if "row" in text]
    assert [text.split("row ")[1].split(":")[0][:2] for text in rows] == ["13", "14"]


def test_several_processes_find_the_same(data: Path) -> None:
    dataset = Dataset.open(data)
    dataset.verify(workers=2)
    flip(data / dataset.manifest.shards[2].path)
    with pytest.raises(ShardError, match=r"shard-00002.*rows 20 to 29"):
        dataset.verify(workers=2)
