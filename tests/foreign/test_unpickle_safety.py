"""Hostile, damaged and oversized pickles: nothing is executed, nothing hangs, nobody crashes."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epitaxy.errors import ConfigError, SourceError
from epitaxy.foreign.unpickle import BadValue, Limits, read_pickles


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple[Any, Any]:
        return self.parts


def read(path: Path, raw: bytes, **options: Any) -> list[tuple[str, Any]]:
    path.write_bytes(raw)
    return list(read_pickles(str(path), **options))


def in_storage(payload: Any) -> Call:
    """A tensor's storage whose bytes hold ``payload`` instead."""
    return Call(torch.storage._load_from_bytes, pickle.dumps(payload))


def saved(payload: Any, *, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save([torch.ones(2), payload], stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


ATTACKS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "system": (lambda mark: pickle.dumps(Call(os.system, f"touch {mark}")), "posix.system"),
    "nested": (
        lambda mark: pickle.dumps({"a": [1, {"b": (Call(os.system, f"touch {mark}"),)}]}),
        "posix.system",
    ),
    "key": (lambda mark: pickle.dumps({Call(os.system, f"touch {mark}"): 1}), "posix.system"),
    "eval": (
        lambda mark: pickle.dumps(Call(eval, f"open({mark!r}, 'w')")),
        "builtins.eval",
    ),
    "exec": (
        lambda mark: pickle.dumps(Call(exec, f"open({mark!r}, 'w')"), 0),
        "__builtin__.exec",
    ),
    "open": (lambda mark: pickle.dumps(Call(builtins.open, mark, "w")), "io.open"),
    "popen": (
        lambda mark: pickle.dumps(Call(subprocess.Popen, ["touch", mark])),
        "subprocess.Popen",
    ),
    "getattr": (lambda mark: pickle.dumps(Call(getattr, "text", "format")), "builtins.getattr"),
    "result is called": (
        lambda mark: f"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR(S'touch {mark}'\ntR.".encode(),
        "os.system",
    ),
    "popped": (
        lambda mark: f"cos\nsystem\n(S'touch {mark}'\ntR0I1\n.".encode(),
        "os.system",
    ),
    "instance": (lambda mark: f"(S'touch {mark}'\nios\nsystem\n.".encode(), "os.system"),
    "dotted": (
        lambda mark: b"\x80\x04\x8c\x08builtins\x8c\x11str.__class__.mro\x93.",
        "builtins.str.__class__.mro",
    ),
    "torch legacy": (
        lambda mark: saved(Call(os.system, f"touch {mark}"), zipped=False),
        "posix.system",
    ),
    "import": (lambda mark: pickle.dumps(Call(__import__, "antigravity")), "builtins.__import__"),
    "numpy load": (lambda mark: pickle.dumps(Call(np.load, mark, None, True)), "numpy.load"),
}


def test_nothing_is_executed(tmp_path: Path) -> None:
    marks = {attack: tmp_path / f"mark{index}" for index, attack in enumerate(ATTACKS)}
    raw = b"".join(make(str(marks[attack])) for attack, (make, _) in ATTACKS.items())
    records = read(tmp_path / "evil.p", raw)
    assert [name for name, _ in records] == [str(index) for index in range(len(ATTACKS))]
    for (attack, (_, named)), (record, bad) in zip(ATTACKS.items(), records, strict=True):
        assert isinstance(bad, BadValue), attack
        assert not marks[attack].exists()
        message = str(bad.error)
        where = f"{tmp_path / 'evil.p'}, record {record!r}"
        for part in (named, where, "pymatgen", f"allow=['{named}']"):
            assert part in message, attack


@pytest.mark.parametrize("place", ["zip", "storage"])
def test_nothing_inside_a_tensor_is_executed(tmp_path: Path, place: str) -> None:
    evil = Call(os.system, f"touch {tmp_path / 'mark'}")
    raw = saved(evil, zipped=True) if place == "zip" else pickle.dumps([in_storage(evil)])
    ((_, bad),) = read(tmp_path / "evil.pt", raw)
    assert "posix.system" in str(bad.error)
    assert not (tmp_path / "mark").exists()


def test_one_bad_item_spoils_no_other(tmp_path: Path) -> None:
    evil = Call(os.system, f"touch {tmp_path / 'mark'}")
    raw = pickle.dumps({"a": 1, "b": [evil], "c": np.ones(2)})
    (_, one), (name, bad), (_, array) = read(tmp_path / "x.p", raw, select="items")
    assert (one, name, array.tolist()) == (1, "b", [1.0, 1.0])
    assert "posix.system" in str(bad.error)
    first, (_, good) = read(tmp_path / "x.p", pickle.dumps([evil]) + pickle.dumps("good"))
    assert isinstance(first[1], BadValue)
    assert good == "good"


def test_an_allowed_function_is_still_not_executed(tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'mark'}"
    ((_, found),) = read(
        tmp_path / "x.p", pickle.dumps(Call(os.system, command)), allow=["posix.system"]
    )
    assert found == {"@type": "posix.system", "@args": [command]}
    assert not (tmp_path / "mark").exists()


def dtype_with_fields(offset: int, inner: bytes) -> bytes:
    """An array of 8 bytes whose dtype says that a field of kind ``inner`` lies at ``offset``."""
    dtype = b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'"
    dtype += inner + b"'\nI0\nI1\ntRI%d\ntsI8\nI1\nI16\ntb" % offset
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    return start + dtype + b"I00\nS'AAAAAAAA'\ntb."


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (dtype_with_fields(0, b"O8"), "Python objects"),
        (dtype_with_fields(1 << 30, b"i4"), "damaged"),
        (b"cnumpy\nndarray\n(I0\nt\x81.", "damaged"),
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'AAAAAAAA'\ntR.", "object"),
        (b"(S'storage'\ntQ.", "persistent id"),
        (b"\x82\x01.", "damaged"),  # an extension code
        (b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI0\n(I9\nt(I1\nttR.", "storage"),
        (b"c_codecs\nencode\n(S'x'\nS'zlib_codec'\ntR.", "encoded"),
        (b"cbuiltins\nbytes\n}S'__call__'\ncbuiltins\nlist\nsb.", "change"),
        (b"cpymatgen.core\nLattice\n}S'append'\ncbuiltins\nlist\nsb.", "damaged"),
    ],
)
def test_tricks_are_refused(tmp_path: Path, raw: bytes, reason: str) -> None:
    ((_, bad),) = read(tmp_path / "x.p", raw)
    assert isinstance(bad, BadValue)
    assert reason in str(bad.error)


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    raw = pickle.dumps(torch.arange(4.0))
    # The shape (4,) of the view becomes (5,): K is BININT1, \x85 makes a tuple of one.
    assert raw.count(b"K\x04\x85") == 1
    ((_, bad),) = read(tmp_path / "x.p", raw.replace(b"K\x04\x85", b"K\x05\x85"))
    assert "element 4 of a storage with 4" in str(bad.error)


def test_what_unfolds_or_nests_without_end(tmp_path: Path) -> None:
    laughs: list[Any] = [1]
    for _ in range(50):
        laughs = [laughs, laughs]
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    found = read(tmp_path / "x.p", pickle.dumps(laughs) + deep + pickle.dumps("after"))
    assert "1000000000 values" in str(found[0][1].error)
    assert "100 levels" in str(found[1][1].error)
    assert found[2] == ("2", "after")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (pickle.dumps(list(range(1000)))[:-50], "truncated"),
        (pickle.dumps({"a": 1})[:-1], "cut off|ran out|truncated"),
        (b"id,energy\nx,1\n", "damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
    ],
)
def test_damaged_pickles(tmp_path: Path, raw: bytes, reason: str) -> None:
    good, (name, bad) = read(tmp_path / "x.p", pickle.dumps([1, 2]) + raw)
    assert (good, name) == (("0", [1, 2]), "1")
    assert isinstance(bad, BadValue)
    assert str(tmp_path / "x.p") in str(bad.error)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(bad.error))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.p is empty"):
        read(tmp_path / "x.p", b"")
    with pytest.raises(SourceError, match="there is no file"):
        list(read_pickles(str(tmp_path / "absent.p")))
    with pytest.raises(SourceError, match="is a folder"):
        read_pickles(str(tmp_path))
    packed = gzip.compress(pickle.dumps(list(range(10_000))))
    with pytest.raises(SourceError, match=r"y\.p\.gz is cut off or damaged"):
        read(tmp_path / "y.p.gz", packed[: len(packed) // 2])


def test_arguments_of_another_form(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="select"):
        read_pickles(str(tmp_path), select="values")
    for name in ("*", "a b", "package.", ""):
        with pytest.raises(ConfigError, match="allow"):
            read_pickles(str(tmp_path / "x.p"), allow=[name])


def test_items_of_something_without_items(tmp_path: Path) -> None:
    ((_, bad),) = read(tmp_path / "x.p", pickle.dumps(5), select="items")
    assert "expected a dict or list" in str(bad.error)


def test_a_gzip_bomb(tmp_path: Path) -> None:
    start = gzip.compress(b"B" + (70 << 20).to_bytes(4, "little"))
    bomb = start + gzip.compress(bytes(10 << 20)) * 7
    with pytest.raises(SourceError, match=r"1000 times its size.*unpack it yourself"):
        read(tmp_path / "bomb.p.gz", bomb)
    large = gzip.compress(pickle.dumps(np.random.default_rng(0).bytes(100_000)))
    with pytest.raises(SourceError, match="more than 50000 bytes"):
        read(tmp_path / "large.p.gz", large, limits=Limits(unpacked=50_000))


def test_memory_is_limited(tmp_path: Path) -> None:
    raw = pickle.dumps(Call(bytearray, 1 << 40))
    with pytest.raises(SourceError, match=r"x\.p needs more than the 0\.5 GiB.*Limits\(memory"):
        read(tmp_path / "x.p", raw, limits=Limits(memory=1 << 29))


def test_a_record_that_takes_for_ever(tmp_path: Path) -> None:
    endless = b"cbuiltins\nset\n(cbuiltins\nrange\n(I0\nI1000000000000\ntRtR."
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"busy for 0\.5 s .* after record '0'"):
        read(tmp_path / "x.p", pickle.dumps(1) + endless, limits=Limits(seconds=0.5))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"by signal 11 \(SIGSEGV\): damaged file"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"by signal 9 \(SIGKILL\): .* out of memory"),
        ("raise RuntimeError('what ' + 'x' * 10**6)", "failed: RuntimeError: what x"),
        ("sys.exit('bye')", "failed: bye"),
        ("os.write(1, b'hello' * 100)", "nonsense: a message begins with"),
    ],
)
def test_a_reader_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    script = Path(sys.modules["epitaxy.foreign.process"].__dict__["SCRIPT"])
    text = script.read_text("utf-8")
    changed = text.replace("    _load_own_package()\n", f"    {code}\n", 1)
    assert changed != text
    other = tmp_path / "unpickler.py"
    other.write_text(
        "import signal\n".join(changed.split("import json\n", 1)).replace(
            "import signal\n", "import json\nimport signal\n", 1
        )
    )
    monkeypatch.setattr("epitaxy.foreign.process.SCRIPT", other)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "x.p", pickle.dumps(1))


def test_the_reader_ends_when_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(b"".join(pickle.dumps(bytes(100_000)) for _ in range(50)))
    records: Any = read_pickles(str(path))
    next(records)
    child = records.gi_frame.f_locals["child"]._process.pid
    assert os.getpgid(child) == child  # a group of its own: Ctrl-C reaches the parent alone
    del records
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_reader_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(b"".join(pickle.dumps(bytes(100_000)) for _ in range(50)))
    program = (
        "import os, sys, time\nfrom epitaxy.foreign.unpickle import read_pickles\n"
        f"records = read_pickles({str(path)!r})\nnext(records)\n"
        "child = records.gi_frame.f_locals['child']._process.pid\n"
        "print(child, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{child}/cmdline").exists():
        if not Path(f"/proc/{child}/cmdline").read_bytes():  # a zombie nobody waits for
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}/cmdline").exists()


def test_the_reader_cannot_write_or_start_programs(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys\nfrom epitaxy.foreign.child.limits import forbid_writing\n"
        "forbid_writing()\n"
        "for action in (lambda: os.system('true'), lambda: subprocess.run(['true']),\n"
        "               lambda: os.remove(sys.argv[1]),\n"
        "               lambda: os.write(int(sys.argv[2]), b'x')):\n"
        "    try:\n        action()\n        os._exit(3)\n    except OSError:\n        pass\n"
    )
    target = tmp_path / "file"
    with target.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-c", program, str(target), str(stream.fileno())],
            pass_fds=[stream.fileno()],
            capture_output=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert target.stat().st_size == 0
