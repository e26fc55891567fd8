"""The manifest: complete, self-checking, and honest about versions."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from epitaxy.data.manifest import (
    FILE_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    Skipped,
    check_content,
    check_size,
    file_entry,
    tree_sha256,
)
from epitaxy.errors import ShardError
from epitaxy.graph.record import LabelField

MANIFEST = Manifest(
    storage="lmdb",
    num_records=3,
    fields=(
        LabelField("energy", "eV", (), False, "PBE"),
        LabelField("forces", "eV/Å", (3,), True, "PBE"),
    ),
    shards=(ShardEntry("shard-00000.lmdb", 4096, "ab" * 32, 0, 3),),
    files=(FileEntry("sidecars/ids.npy", 130, "cd" * 32),),
    data_digest="ef" * 32,
    source={"uri": "x.xyz", "files": [{"path": "x.xyz", "bytes": 1}]},
    recipe={"name": "extxyz", "source": {"_target_": "a.B"}},
    licence="CC BY 4.0",
    conversions=({"label": "energy", "from": "Ha", "to": "eV", "multiplied_by": 27.2},),
    skipped=Skipped(1, (("x.xyz, frame 2", "NaN"),)),
    created="2026-01-01T00:00:00+00:00",
    generator="epitaxy 0.1.0",
)


def write(folder: Path, text: str | bytes) -> None:
    (folder / FILE_NAME).write_bytes(text.encode() if isinstance(text, str) else text)


def test_it_comes_back(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.to_json())
    assert Manifest.load(tmp_path) == MANIFEST


def test_units_stay_readable_in_the_file(tmp_path: Path) -> None:
    assert '"unit": "eV/Å"' in MANIFEST.to_json()


def test_flipped_bytes_are_noticed_or_harmless(tmp_path: Path) -> None:
    text = MANIFEST.to_json().encode()
    for position in range(0, len(text), 3):
        damaged = bytearray(text)
        damaged[position] ^= 0x02
        write(tmp_path, bytes(damaged))
        with suppress(ShardError):
            assert Manifest.load(tmp_path) == MANIFEST  # white space between the entries


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_a_cut_manifest_is_damaged(tmp_path: Path, cut: int) -> None:
    write(tmp_path, MANIFEST.to_json()[:cut])
    with pytest.raises(ShardError, match=r"manifest.json is damaged"):
        Manifest.load(tmp_path)


def test_no_manifest_means_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"not a prepared data set.*epitaxy prepare"):
        Manifest.load(tmp_path)
    with pytest.raises(ShardError, match="not a prepared data set"):
        Manifest.load(tmp_path / "nowhere")


def test_a_newer_version_is_named_even_if_its_layout_is_unknown(tmp_path: Path) -> None:
    newer = {"format": 3, "generator": "epitaxy 9.0", "rows": {"how": "different"}}
    write(tmp_path, json.dumps(newer))
    with pytest.raises(ShardError, match=r"format 3.*newer epitaxy \(epitaxy 9.0\).*up to 2"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "1"}', "null"])
def test_other_json_is_no_manifest(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ShardError, match="no manifest"):
        Manifest.load(tmp_path)


def test_an_edited_number_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, MANIFEST.to_json().replace('"num_records": 3', '"num_records": 4'))
    with pytest.raises(ShardError, match="checksum"):
        Manifest.load(tmp_path)


def test_the_checksum_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "shard"
    (folder / "c").mkdir(parents=True)
    (folder / "c" / "0").write_bytes(b"one")
    (folder / "zarr.json").write_text("{}")
    entry = file_entry(tmp_path, folder)
    assert (entry.path, entry.bytes) == ("shard", 5)
    check_content(tmp_path, entry)
    (folder / "c" / "0").rename(folder / "c" / "1")
    check_size(tmp_path, entry)
    with pytest.raises(ShardError, match="checksum"):
        check_content(tmp_path, entry)


def test_the_checksum_of_a_file_is_plain_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert tree_sha256(tmp_path / "a") == known


def test_size_errors_name_the_file(tmp_path: Path) -> None:
    entry = replace(MANIFEST.files[0], path="ids.npy")
    with pytest.raises(ShardError, match=r"ids.npy is missing"):
        check_size(tmp_path, entry)
    (tmp_path / "ids.npy").write_bytes(b"short")
    with pytest.raises(ShardError, match=r"ids.npy is damaged: 5 bytes, expected 130"):
        check_size(tmp_path, entry)
