"""Paths, patterns, compressed text and archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from epitaxy.data.sources import files
from epitaxy.data.sources.files import (
    expand,
    is_archive,
    open_bytes,
    open_text,
    stem,
    unpacked,
    unpacked_folder,
)
from epitaxy.errors import SourceError

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


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


def packed(path: Path, content: bytes) -> str:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.stem, content)
    else:
        path.write_bytes(PACK.get(path.suffix, bytes)(content))
    return str(path)


def read_all(path: str) -> int:
    """Returns the number of bytes in a file, read in chunks."""
    with open_bytes(path) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 16), b""))


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zip"])
def test_text_is_read_compressed_or_not(tmp_path: Path, ending: str) -> None:
    path = packed(tmp_path / f"a.csv{ending}", "\ufeffÅ\r\n".encode())
    with open_text(path) as stream:
        assert stream.read() == "Å\r\n"  # without the mark that Excel puts first
    with unpacked(path) as plain:
        assert Path(plain).name == "a.csv"
        assert Path(plain).read_bytes().decode("utf-8-sig") == "Å\r\n"
    assert Path(plain).exists() == (not ending)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
@pytest.mark.parametrize("damage", ["cut", "noise", "flipped"])
def test_damaged_files_are_named(tmp_path: Path, ending: str, damage: str) -> None:
    noise = b"".join(str(number**7).encode() for number in range(5000))
    path = Path(packed(tmp_path / f"a.csv{ending}", noise))
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "cut":
        path.write_bytes(content[:half])
    elif damage == "noise":
        path.write_bytes(b"no archive" * 9)
    else:
        path.write_bytes(content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :])
    with pytest.raises(SourceError, match=r"a\.csv.* (is cut off or damaged|cannot be read)"):
        read_all(str(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder"), open_text(str(tmp_path)):
        pass
    with pytest.raises(SourceError, match="there is no file"), open_text(str(tmp_path / "x.gz")):
        pass
    with pytest.raises(SourceError, match="there is no file"), unpacked(str(tmp_path / "x.db")):
        pass
    (tmp_path / "a.csv").write_bytes("café".encode("latin1"))
    with (
        pytest.raises(SourceError, match=r"not UTF-8 text.*iconv"),
        open_text(str(tmp_path / "a.csv")) as stream,
    ):
        stream.read()


def test_a_zip_of_several_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
    with pytest.raises(SourceError, match="holds 2 files, expected one; unpack it yourself"):
        read_all(str(tmp_path / "a.json.zip"))


def test_a_locked_zip_is_named(tmp_path: Path) -> None:
    """The first bit of the general flags says that a file is encrypted."""
    path = Path(packed(tmp_path / "a.json.zip", b"[]"))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match=r"cannot be unpacked: .*encrypted"):
        read_all(str(path))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 1 << 16)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * (1 << 24)))
    with pytest.raises(SourceError, match=r"a\.json\.gz expands to more than .* bomb\?"):
        read_all(str(tmp_path / "a.json.gz"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 1 << 24
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(1 << 24))
    for name in ("a.tar.gz", "a.zip"):
        with pytest.raises(SourceError, match=r"bomb\?"), unpacked_folder(str(tmp_path / name)):
            pass


def test_text_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"0,0\n" * 100_000))
    assert read_all(str(tmp_path / "a.csv.gz")) == 400_000


def test_archives_are_unpacked_and_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "x.cif").write_text("data_x")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "in", "in")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(tmp_path / "in" / "deep" / "x.cif", "in/deep/x.cif")
    for name in ("a.tar.xz", "a.zip"):
        assert is_archive(str(tmp_path / name))
        with unpacked_folder(str(tmp_path / name)) as folder:
            assert (folder / "in" / "deep" / "x.cif").read_text() == "data_x"
        assert not folder.exists()
    assert not is_archive(str(tmp_path / "in"))
    with unpacked_folder(str(tmp_path / "in")) as folder:
        assert folder == tmp_path / "in"


def test_an_archive_may_not_write_elsewhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../outside.cif"))
    with pytest.raises(SourceError, match="outside"), unpacked_folder(str(tmp_path / "a.tar")):
        pass
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("../../outside.cif", "x")
    with unpacked_folder(str(tmp_path / "a.zip")) as folder:
        assert [path.name for path in folder.iterdir()] == ["outside.cif"]  # taken in, not let out
    assert not (tmp_path / "outside.cif").exists()


def test_what_is_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceError, match="no folder or archive"),
        unpacked_folder(str(tmp_path / "x")),
    ):
        pass
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with (
        pytest.raises(SourceError, match="neither a folder nor a readable archive"),
        unpacked_folder(str(tmp_path / "a.tar.gz")),
    ):
        pass


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/a.xyz.gz", "a"),
        ("b", "b"),
        ("mptrj-random-1k.xyz", "mptrj-random-1k"),
        ("a.b.json", "a"),
    ],
)
def test_stems(path: str, name: str) -> None:
    assert stem(path) == name
