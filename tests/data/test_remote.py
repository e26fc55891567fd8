"""Data sets behind a URI: the same records, whatever the server does."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from epitaxy.data import remote
from epitaxy.data.cache import Cache, cache_bytes
from epitaxy.data.convert import prepare
from epitaxy.data.copying import copy_data_set
from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import FileEntry
from epitaxy.data.rewrite import rewrite
from epitaxy.data.splits import store_split
from epitaxy.errors import ConfigError, ShardError

COUNT = 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, epitaxy_home: Path) -> Path:
    """Short pauses between tries, an own cache, and nothing in fsspec's memory."""
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return epitaxy_home


@pytest.fixture(scope="module")
def folder(crystals: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty records in three LMDB shards, with a split."""
    out = tmp_path_factory.mktemp("remote") / "frames"
    prepare(crystals.many(COUNT), out, shard_size=10, checks="off")
    store_split(Dataset.open(out), "mine", {"by": "record"})
    return out


@dataclass
class Site:
    """A web server over a folder, with whatever misbehaviour a test asks for.

    Attributes:
        root: What it serves.
        fail: How many of the next requests for shards get status 503.
        cut: Whether shards end in the middle.
        lie: Whether shards come with a flipped byte.
        stall: Whether shards stop coming in the middle.
        asked: Paths asked for.
    """

    root: Path
    url: str = ""
    fail: int = 0
    cut: bool = False
    lie: bool = False
    stall: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler, head: bool) -> None:
        path = self.root / request.path.lstrip("/")
        self.asked.append(request.path)
        shard = "shard-" in request.path
        if shard and not head and self.fail > 0:
            self.fail -= 1
            request.send_error(503)
            return
        if not path.is_file():
            request.send_error(404)
            return
        content = bytearray(path.read_bytes())
        if shard and self.lie:
            content[len(content) // 2] ^= 1
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if head:
            return
        broken = shard and (self.cut or self.stall)
        request.wfile.write(content[: len(content) // 2] if broken else content)
        if shard and self.stall:
            request.wfile.flush()
            time.sleep(1.0)
        request.close_connection = broken


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    found = Site(folder.parent)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found.answer(self, head=False)

        def do_HEAD(self) -> None:
            found.answer(self, head=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/frames"
    yield found
    server.shutdown()
    server.server_close()


def cached(home: Path) -> list[Path]:
    return sorted((home / "cache" / "shards").iterdir())


@pytest.mark.parametrize("protocol", ["memory", "file", "http"])
def test_records_columns_and_splits_are_those_of_the_folder(
    protocol: str, folder: Path, site: Site, tmp_path: Path
) -> None:
    uri = {"memory": "memory://bucket/frames", "file": f"file://{tmp_path}/frames"}.get(protocol)
    if uri is not None:
        copy_data_set(folder, uri)
    near, far = Dataset.open(folder), Dataset.open(uri or site.url)
    rows = [29, 0, 13, 12]
    assert far.read(rows) == near.read(rows)
    assert (far.data_digest, far.name, len(far)) == (near.data_digest, "frames", COUNT)
    assert far.ids.tolist() == near.ids.tolist()
    assert far.location == (uri or site.url)
    assert [path.name for path in (far.path / "splits").glob("*")] == (
        [] if protocol == "http" else ["mine.json"]
    )
    far.verify()


def test_shards_are_fetched_once_and_only_when_read(site: Site, quick: Path) -> None:
    first = Dataset.open(site.url)
    assert not [path for path in site.asked if "shard-" in path]
    first.read([0, 1])
    again = Dataset.open(site.url)
    again.read([5])
    assert len([path for path in site.asked if "shard-00000" in path and path]) <= 2  # HEAD, GET
    assert [path.suffix for path in cached(quick)] == [".lmdb"]
    assert not [path for path in site.asked if "shard-00001" in path]


def test_it_travels_to_other_processes(site: Site, folder: Path) -> None:
    content = pickle.dumps(Dataset.open(site.url))
    assert len(content) < 20_000
    program = (
        "import pickle, sys\n"
        "data = pickle.loads(sys.stdin.buffer.read())\n"
        "sys.stdout.buffer.write(data.read([17])[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True)
    assert done.stdout == Dataset.open(folder).read([17])[0], done.stderr.decode()


def test_passing_trouble_passes(site: Site, folder: Path) -> None:
    site.fail = 2
    assert Dataset.open(site.url).read([3]) == Dataset.open(folder).read([3])
    assert site.fail == 0


@pytest.mark.parametrize("trouble", ["cut", "lie", "stall"])
def test_lasting_trouble_is_an_error_and_leaves_nothing(
    trouble: str, site: Site, quick: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(remote, "STALL_S", 0.2)
    monkeypatch.setattr(remote, "TRIES", 2)
    dataset = Dataset.open(site.url)
    setattr(site, trouble, True)
    with pytest.raises(ShardError, match=r"shard-00000\.lmdb failed in 2 tries, the last by"):
        dataset.read([3])
    assert cached(quick) == []
    setattr(site, trouble, False)
    assert dataset.read([3]) == Dataset.open(folder).read([3])


def test_a_cached_file_that_went_bad_is_fetched_again(
    site: Site, quick: Path, folder: Path
) -> None:
    dataset = Dataset.open(site.url)
    dataset.read([3])
    (path,) = cached(quick)
    content = bytearray(path.read_bytes())
    place = content.index(Dataset.open(folder).read([3])[0][-24:])
    content[place + 3] ^= 1
    os.utime(path.rename(path.with_suffix(".old")))
    path.write_bytes(content)
    assert Dataset.open(site.url).read([3]) == Dataset.open(folder).read([3])
    assert path.read_bytes() != bytes(content)


def test_the_cache_stays_within_its_size(site: Site, quick: Path, folder: Path) -> None:
    """Room for two of three shards; what was read longest ago goes first."""
    sizes = {shard.bytes for shard in Dataset.open(folder).manifest.shards}
    dataset = Dataset.open(site.url, cache_bytes=2 * max(sizes))
    everything = Dataset.open(folder).read(range(COUNT))
    assert dataset.read(range(COUNT)) == everything
    for row in (0, 10, 20, 5, 15, 25, 0):
        assert dataset.read([row]) == [everything[row]]
        assert sum(path.stat().st_size for path in cached(quick)) <= 2 * max(sizes)
    with pytest.raises(ShardError, match=r"does not fit the cache .*EPITAXY_CACHE_BYTES"):
        Dataset.open(site.url, cache_bytes=1000).read([12])


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "shards", 30)
    entries = [FileEntry(f"shard-{n}.lmdb", 10, f"{n:064d}") for n in range(4)]
    for age, entry in enumerate(entries[:3]):
        path = cache.place(entry, lambda path: path.write_bytes(b"x" * 10) and None)
        os.utime(path, (time.time() - 1000 + age,) * 2)
    cache.place(entries[0], lambda path: pytest.fail("it is there"))
    cache.place(entries[3], lambda path: path.write_bytes(b"y" * 10) and None)
    left = {path.name[63] for path in (tmp_path / "shards").iterdir()}
    assert left == {"0", "2", "3"}


@pytest.mark.parametrize(("text", "size"), [("20G", 20 * 2**30), ("1.5MB", 1572864), ("900", 900)])
def test_the_size_is_written_as_people_do(
    text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPITAXY_CACHE_BYTES", text)
    assert cache_bytes() == size
    monkeypatch.setenv("EPITAXY_CACHE_BYTES", "plenty")
    with pytest.raises(ConfigError, match="such as 20G"):
        cache_bytes()


def test_what_is_not_there_is_said_clearly(site: Site) -> None:
    with pytest.raises(ShardError, match=r"there is no http.*/nothing/manifest\.json: is the add"):
        Dataset.open(site.url.replace("frames", "nothing"))
    with pytest.raises(ShardError, match="does the bucket exist"):
        Dataset.open("memory://bucket/nothing")
    with pytest.raises(ConfigError, match=r"pip install s3fs"):
        Dataset.open("s3://bucket/frames")
    with pytest.raises(ConfigError, match=r"did you mean 's3'"):
        Dataset.open("s33://bucket/frames")
    with pytest.raises(ConfigError, match="only reads"):
        remote.persistent("x", lambda: (_ for _ in ()).throw(NotImplementedError()))


def test_forbidden_is_not_tried_again() -> None:
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise PermissionError("Access Denied")

    with pytest.raises(ShardError, match=r"may not be read: Access Denied; set the credentials"):
        remote.persistent("s3://bucket/x", attempt)
    assert len(calls) == 1


def test_copies_go_both_ways(folder: Path, site: Site, tmp_path: Path) -> None:
    uri = "memory://bucket/copy"
    copy_data_set(site.url, uri)
    with pytest.raises(ConfigError, match="overwrite=true"):
        copy_data_set(folder, uri)
    copy_data_set(folder, uri, overwrite=True)
    copy_data_set(uri, tmp_path / "back")
    back = Dataset.open(tmp_path / "back")
    back.verify()
    assert back.data_digest == Dataset.open(folder).data_digest
    assert (tmp_path / "back" / "splits" / "mine.json").exists()
    assert not fsspec.filesystem("memory").exists("/bucket/copy/copying.txt")


def test_a_copy_that_was_cut_off_is_no_data_set_and_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epitaxy.data import copying

    uri, put, left = "memory://bucket/frames", copying._put, [3]
    written: list[str] = []

    def failing(where: str, name: str, content: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        written.append(name)
        put(where, name, content)

    monkeypatch.setattr(copying, "_put", failing)
    with pytest.raises(KeyboardInterrupt):
        copy_data_set(folder, uri)
    with pytest.raises(ShardError, match="copied completely"):
        Dataset.open(uri)
    assert len(written) == 2
    copy_data_set(folder, uri)
    assert len(written) == len(set(written))
    Dataset.open(uri).verify()


def test_import_and_conversion_write_to_a_uri(crystals: Any, quick: Path) -> None:
    records = crystals.many(12)
    made = prepare(records, "memory://bucket/new", shard_size=5, checks="off")
    assert Dataset.open("memory://bucket/new").record(11) == records[11]
    with pytest.raises(ConfigError, match="overwrite=true"):
        prepare(records, "memory://bucket/new", checks="off")
    rewrite(Dataset.open("memory://bucket/new"), "memory://bucket/zarr", format="zarr")
    zarr = Dataset.open("memory://bucket/zarr")
    assert zarr.data_digest == made.data_digest
    assert zarr.read([11, 2]) == Dataset.open("memory://bucket/new").read([11, 2])
    assert not list((quick / "cache" / "outgoing").iterdir())
