import os
import signal
import threading
import time
from itertools import islice

import numpy as np
import pytest

from epitaxy.data import stream, stream_ray
from epitaxy.data.codec import decode, encode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.prefetch import Patience, prefetch
from epitaxy.data.stream import Seat, Stream, check_shares, deal, read
from epitaxy.errors import ConfigError, StreamError


@pytest.fixture(scope="module")
def records(crystals):
    return crystals.many(41, max_atoms=5)


@pytest.fixture(scope="module")
def datasets(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    prepare(records, folder / "lmdb", format="lmdb", shard_size=16, progress=False)
    prepare(records, folder / "zarr", format="zarr", shard_size=16, progress=False)
    return {name: Dataset.open(folder / name) for name in ("lmdb", "zarr")}


def make_plan(dataset, graphs=7, **options):
    costs = {"edges": dataset.num_atoms * 12, "atoms": dataset.num_atoms}
    keys, digest = dataset.id_names.keys(), dataset.data_digest
    return Plan(keys, costs, graphs=graphs, data_digest=digest, **options)


def arguments(**changes):
    return {"rank": 0, "world": 1, "micro_batches": 1, "cursor": Cursor(), "epochs": 1, **changes}


# ---- direct reading


def test_direct_shares_are_the_records_of_the_plan(datasets, records):
    dataset, encoded = datasets["lmdb"], {record.id: encode(record) for record in records}
    plan = make_plan(dataset)
    for rank in range(2):
        shares = list(Stream(plan, dataset, **arguments(rank=rank, world=2, epochs=2)))
        assert [share.cursor for share in shares] == list(plan.steps_from(Cursor(), 2))
        for share in shares:
            (rows,) = plan.share(share.cursor.epoch, share.cursor.step, rank, 2, 1)
            assert share.micro_batches == ([encoded[str(name)] for name in dataset.ids[rows]],)


def test_all_ranks_together_read_every_record_once_an_epoch(datasets, records):
    dataset = datasets["zarr"]
    seen = []
    for rank in range(3):
        for share in Stream(
            make_plan(dataset), dataset, **arguments(rank=rank, world=3, micro_batches=3)
        ):
            assert len(share.micro_batches) == 3
            seen += [decode(blob).id for part in share.micro_batches for blob in part]
    assert sorted(seen) == sorted(record.id for record in records)


def test_empty_micro_batches_are_legal(datasets):
    (share, *_) = Stream(
        make_plan(datasets["lmdb"], graphs=1), datasets["lmdb"], **arguments(world=4, rank=3)
    )
    assert share.micro_batches == ([],)


def test_an_unknown_route_is_refused(datasets):
    with pytest.raises(ConfigError, match="did you mean 'direct'"):
        Stream(make_plan(datasets["lmdb"]), datasets["lmdb"], route="dirct")


def test_a_stream_that_is_left_yields_nothing_more(datasets):
    with Stream(make_plan(datasets["lmdb"]), datasets["lmdb"]) as shares:
        next(shares)
    assert list(shares) == []


# ---- checks on what arrives

SEAT = Seat(0, 1, 2)


def checked(dataset, tamper):
    """Shares of an epoch whose parts (lists of lists) ``tamper`` changes in place."""
    plan = make_plan(dataset)
    window = (Cursor(), plan.num_steps(0))
    parts = [list(part) for part in read(dataset, deal(plan, SEAT, window))]
    tamper(parts)
    delivered = (tuple(part) for part in parts)
    return list(check_shares(delivered, plan, dataset, SEAT, plan.steps_from(Cursor(), 1)))


def test_what_the_plan_says_passes(datasets):
    shares = checked(datasets["lmdb"], lambda parts: None)
    assert [share.cursor for share in shares] == [Cursor(0, step) for step in range(6)]
    assert shares == list(Stream(make_plan(datasets["lmdb"]), datasets["lmdb"], micro_batches=2))


def insert(at, source):
    return lambda parts: parts.insert(at, parts[source])


def swap(a, b):
    def tamper(parts):
        parts[a], parts[b] = parts[b], parts[a]

    return tamper


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda parts: parts.pop(2), r"\(0, 1, 1\) where \(0, 1, 0\) comes next"),
        (insert(2, 0), r"\(0, 0, 0\) where \(0, 1, 0\)"),
        (swap(0, 2), r"\(0, 1, 0\) where \(0, 0, 0\)"),
        (swap(0, 1), r"\(0, 0, 1\) where \(0, 0, 0\)"),
        (lambda parts: parts.pop(), r"the end where \(0, 5, 1\)"),
        (lambda parts: parts.append([1, 0, 0, []]), r"goes on with \(1, 0, 0\) after its last"),
    ],
    ids=["gap", "duplicate", "reordered steps", "reordered micro-batches", "cut off", "too long"],
)
def test_anything_but_the_next_part_is_an_error(datasets, tamper, message):
    with pytest.raises(StreamError, match=message):
        checked(datasets["lmdb"], tamper)


def change(place, make):
    """Replaces the records of the third part by what ``make`` returns."""

    def tamper(parts):
        parts[place][3] = make(list(parts[place][3]), parts)

    return tamper


def altered(blobs, parts):
    record = decode(blobs[1])
    moved = record.replace(positions=record.positions + 1e-12)
    return [blobs[0], encode(moved), *blobs[2:]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda blobs, _: blobs[1:], r"\(0, 1, 0\) the stream delivered \d records, the plan has"),
        (lambda blobs, _: [*blobs, blobs[0]], r"delivered \d records, the plan has"),
        (lambda blobs, _: [blobs[1], blobs[0], *blobs[2:]], "the record that belongs at place 1"),
        (lambda blobs, _: [blobs[0], blobs[0], *blobs[2:]], "the record that belongs at place 0"),
        (lambda blobs, parts: [blobs[0], parts[0][3][0], *blobs[2:]], "no record of this share"),
        (altered, r"at place 1 bytes that are no record of this share.*epitaxy data verify"),
    ],
    ids=["dropped", "added", "swapped", "repeated", "of another step", "altered, checksum right"],
)
def test_a_reader_that_lies_is_caught_before_the_step(datasets, make, message):
    with pytest.raises(StreamError, match=message):
        checked(datasets["lmdb"], change(2, make))


# ---- Ray Data


def test_streaming_without_ray_says_so(datasets, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(StreamError, match=r"compute\.stream=direct"):
        next(Stream(make_plan(datasets["lmdb"]), datasets["lmdb"], route="ray"))


def test_windows_start_small_stay_bounded_and_cover_every_step():
    keys = np.arange(100, dtype=np.uint64)
    plan = Plan(keys, {"edges": np.ones(100), "atoms": np.ones(100)}, graphs=7)
    windows = list(stream.windows(plan, Cursor(0, 3), 4, 8))
    assert [count for _, count in windows] == [1, 2, 4, 8, 8, 8, 8, 8, 8, 2]
    covered = [step for window in windows for step in stream.steps_of(plan, window)]
    assert covered == list(plan.steps_from(Cursor(0, 3), 4))


def test_the_estimate_of_a_record_knows_its_labels(datasets, records):
    per_record, per_atom = stream.record_bytes(datasets["lmdb"])
    for record in records:  # energy, stress and forces: no more than the estimate, nor a third less
        size = len(encode(record))
        assert 0.66 < size / (per_record + per_atom * record.num_atoms) <= 1


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.005)
    return False


def streaming_threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("StreamingExecutor")]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("storage", ["lmdb", "zarr"])
def test_ray_delivers_the_same_bytes_as_direct_reading(datasets, storage, monkeypatch):
    monkeypatch.setattr(stream_ray, "WINDOW_BYTES", 8192)  # a handful of steps per task
    monkeypatch.setattr(stream_ray, "WINDOWS_PER_EXECUTION", 8)  # and several executions
    dataset, plan = datasets[storage], make_plan(datasets["lmdb"])
    for rank in range(2):
        seat = arguments(rank=rank, world=2, micro_batches=2, cursor=Cursor(1, 3), epochs=12)
        shipped = list(Stream(plan, dataset, route="ray", **seat))
        assert len(shipped) == 11 * plan.num_steps(0) - 3
        assert shipped == list(Stream(plan, dataset, **seat))
        assert all(type(blob) is bytes for blob in shipped[0].micro_batches[0])
    assert streaming_threads() == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_closing_the_stream_ends_the_execution(datasets):
    seat = arguments(epochs=3000)
    shares = Stream(make_plan(datasets["lmdb"]), datasets["lmdb"], route="ray", **seat)
    first = list(islice(shares, 3))
    assert [share.cursor for share in first] == [Cursor(0, 0), Cursor(0, 1), Cursor(0, 2)]
    assert len(streaming_threads()) == 1
    shares.close()
    assert wait_until(lambda: streaming_threads() == [])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_shard_is_named(records, tmp_path):
    prepare(records, tmp_path / "set", format="lmdb", progress=False)
    dataset = Dataset.open(tmp_path / "set")
    (shard,) = (dataset.path / entry.path for entry in dataset.manifest.shards)
    content = shard.read_bytes()
    at = content.index(records[7].positions.tobytes())
    shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(StreamError, match=rf"failed to read the shares: .*{shard.name} is damaged"):
        list(Stream(make_plan(dataset), dataset, route="ray"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_hold_every_cpu_are_told_instead_of_waiting(datasets):
    import ray

    plan, dataset = make_plan(datasets["lmdb"]), datasets["lmdb"]

    def second_of_two_workers():
        try:
            next(Stream(plan, dataset, route="ray", rank=1, world=2))
        except StreamError as error:
            return str(error)

    message = ray.get(ray.remote(num_cpus=2)(second_of_two_workers).remote())
    assert "2 workers with 2 CPUs each take all 4 of the cluster" in message
    assert "compute.cpus_per_worker" in message


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_others_fill_is_an_error_too(datasets, monkeypatch):
    import ray

    monkeypatch.setattr(stream_ray, "PROBE_TIMEOUT_S", 0.5)
    others = ray.util.placement_group([{"CPU": 4}])
    ray.get(others.ready())
    try:
        with pytest.raises(StreamError, match=r"none of the cluster's 4 came free within 0\.5 s"):
            next(Stream(make_plan(datasets["lmdb"]), datasets["lmdb"], route="ray"))
    finally:
        ray.util.remove_placement_group(others)


def with_reader(dataset, read):
    """The data set, read in read tasks by ``read(self, rows)``: a local class travels by value."""

    class Changed(Dataset):
        def read(self, rows):
            return read(self, rows, super().read)

    return Changed(dataset.path, dataset.manifest)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_read_tasks_are_run_again_and_nothing_is_lost(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_ray, "WINDOW_BYTES", 8192)
    deaths = [str(tmp_path / name) for name in ("first", "second")]

    def read(self, rows, honest):
        for flag in deaths:
            if not os.path.exists(flag):
                os.close(os.open(flag, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)
        return honest(rows)

    plan, seat = make_plan(datasets["lmdb"]), arguments(micro_batches=2, epochs=6)
    mortal = with_reader(datasets["lmdb"], read)
    shipped = list(Stream(plan, mortal, route="ray", **seat))
    assert shipped == list(Stream(plan, datasets["lmdb"], **seat))
    assert all(os.path.exists(flag) for flag in deaths)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_read_task_that_lies_is_caught(datasets):
    def read(self, rows, honest):
        return honest(list(reversed(rows)))  # the right records, each under another's row

    liar = with_reader(datasets["lmdb"], read)
    with pytest.raises(
        StreamError,
        match=r"\(0, 0, 0\) the stream delivered at place \d the record that belongs at",
    ):
        list(Stream(make_plan(liar), liar, route="ray"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_read_task_that_raises_ends_the_stream_with_its_reason(datasets):
    def read(self, rows, honest):
        raise OSError("the file server is gone")

    broken = with_reader(datasets["lmdb"], read)
    with pytest.raises(StreamError, match=r"failed to read the shares: .*the file server is gone"):
        list(Stream(make_plan(broken), broken, route="ray"))
    assert wait_until(lambda: streaming_threads() == [])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_slow_read_tasks_are_named(datasets, caplog):
    def read(self, rows, honest):
        time.sleep(0.8)
        return honest(rows)

    slow = with_reader(datasets["lmdb"], read)
    shares = Stream(make_plan(slow, graphs=41), slow, route="ray")
    patience = Patience(warn_s=0.2, source="Ray Data's read tasks on rank 0")
    assert len(list(prefetch(shares, 2, patience=patience))) == 1
    assert "waiting for Ray Data's read tasks on rank 0 since" in caplog.text


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_store_too_small_for_a_share_is_refused_with_the_remedy(datasets, monkeypatch):
    monkeypatch.setattr(stream_ray, "_smallest_store", lambda: 40_000.0)
    with pytest.raises(StreamError, match=r"store of 0 MB is too small.*object-store-memory"):
        next(Stream(make_plan(datasets["lmdb"], graphs=41), datasets["lmdb"], route="ray"))


def test_no_share_is_larger_than_the_largest(datasets, records):
    dataset = datasets["lmdb"]
    for world in (1, 2, 3):
        plan = make_plan(dataset, graphs=5)
        largest = stream_ray.largest_share_bytes(plan, dataset, world)
        sizes = [
            sum(len(blob) for blob in share.micro_batches[0])
            for rank in range(world)
            for share in Stream(plan, dataset, **arguments(rank=rank, world=world, epochs=8))
        ]
        assert 0.5 * largest < max(sizes) <= largest


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_plan_stays_at_home(datasets, monkeypatch):
    """One of ten million records would fill a small object store, once per rank."""

    def refuse(self):
        raise AssertionError("the plan travels")

    plan = make_plan(datasets["lmdb"])
    monkeypatch.setattr(Plan, "__getstate__", refuse)
    assert len(list(Stream(plan, datasets["lmdb"], route="ray"))) == plan.num_steps(0)
