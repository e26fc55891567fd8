"""Paths, patterns and compressed text."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from epitaxy.data.sources.files import expand, open_text, stem
from epitaxy.errors import SourceError


def test_paths_lists_and_patterns(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.xyz", "c, d.xyz"):
        (tmp_path / name).touch()
    a, b, comma = (str(tmp_path / name) for name in ("a.xyz", "b.xyz", "c, d.xyz"))
    assert expand(a) == [a]
    assert expand(f"{b}, {a}") == [b, a]
    assert expand(str(tmp_path / "?.xyz")) == [a, b]
    assert expand(comma) == [comma]
    assert expand("") == [""]
    assert expand("emt://?alloys=10&seed=1") == ["emt://?alloys=10&seed=1"]


def test_missing_and_repeated_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").touch()
    with pytest.raises(SourceError, match=r"there is no file .*b\.xyz"):
        expand(f"{tmp_path}/a.xyz,{tmp_path}/b.xyz")
    with pytest.raises(SourceError, match=r"nothing matches .*\*\.cif"):
        expand(f"{tmp_path}/*.cif")
    with pytest.raises(SourceError, match="named twice"):
        expand(f"{tmp_path}/a.xyz,{tmp_path}/*.xyz")


def test_text_is_read_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Å\r\n", newline="")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("Å\r\n".encode()))
    for name in ("a.csv", "a.csv.gz"):
        with open_text(str(tmp_path / name)) as stream:
            assert stream.read() == "Å\r\n"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"), open_text(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("path", "name"), [("x/a.xyz.gz", "a"), ("b", "b"), ("mptrj-random-1k.xyz", "mptrj-random-1k")]
)
def test_stems(path: str, name: str) -> None:
    assert stem(path) == name
