import gc
import threading
import time
import traceback
from itertools import islice

import numpy as np
import pytest

from epitaxy.data import stream
from epitaxy.data.codec import decode, encode, pack
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.stream import assemble_shares, direct_shares, prefetch, ray_shares
from epitaxy.errors import ConfigError, PlanError, StreamError


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
        shares = list(direct_shares(plan, dataset, **arguments(rank=rank, world=2, epochs=2)))
        assert [share.cursor for share in shares] == list(plan.steps_from(Cursor(), 2))
        for share in shares:
            (rows,) = plan.share(share.cursor.epoch, share.cursor.step, rank, 2, 1)
            assert share.micro_batches == ([encoded[str(name)] for name in dataset.ids[rows]],)


def test_all_ranks_together_read_every_record_once_an_epoch(datasets, records):
    dataset = datasets["zarr"]
    seen = []
    for rank in range(3):
        for share in direct_shares(
            make_plan(dataset), dataset, **arguments(rank=rank, world=3, micro_batches=3)
        ):
            assert len(share.micro_batches) == 3
            seen += [decode(blob).id for part in share.micro_batches for blob in part]
    assert sorted(seen) == sorted(record.id for record in records)


def test_empty_micro_batches_are_legal(datasets):
    (share, *_) = direct_shares(
        make_plan(datasets["lmdb"], graphs=1), datasets["lmdb"], **arguments(world=4, rank=3)
    )
    assert share.micro_batches == ([],)


# ---- checks on what arrives


def row(epoch, step, micro_batch):
    return epoch, step, micro_batch, pack([f"{epoch}.{step}.{micro_batch}".encode()])


STEPS = [Cursor(0, 0), Cursor(0, 1), Cursor(1, 0)]
ROWS = [row(step.epoch, step.step, index) for step in STEPS for index in range(2)]


def test_rows_become_shares():
    shares = list(assemble_shares(ROWS, STEPS, 2))
    assert [share.cursor for share in shares] == STEPS
    assert shares[2].micro_batches == ([b"1.0.0"], [b"1.0.1"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:2] + ROWS[3:], r"\(0, 1, 1\) where \(0, 1, 0\) comes next"),
        ([*ROWS[:2], *ROWS[:2], *ROWS[2:]], r"\(0, 0, 0\) where \(0, 1, 0\)"),
        (ROWS[2:4] + ROWS[:2] + ROWS[4:], r"\(0, 1, 0\) where \(0, 0, 0\)"),
        ([ROWS[1], ROWS[0], *ROWS[2:]], r"\(0, 0, 1\) where \(0, 0, 0\)"),
        (ROWS[:-1], r"the end where \(1, 0, 1\)"),
        ([*ROWS, row(1, 1, 0)], r"goes on with \(1, 1, 0\) after its last step"),
    ],
    ids=["gap", "duplicate", "reordered steps", "reordered micro-batches", "cut off", "too long"],
)
def test_anything_but_the_next_row_is_an_error(rows, message):
    with pytest.raises(StreamError, match=message):
        list(assemble_shares(rows, STEPS, 2))


# ---- prefetch


def running():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_prefetch_keeps_the_order_and_leaves_no_thread(depth):
    assert list(prefetch(iter(range(300)), depth)) == list(range(300))
    assert running() == []


def test_prefetch_works_ahead_by_its_depth_and_no_further():
    made = []

    def source():
        for index in range(10):
            made.append(index)
            yield index

    items = prefetch(source(), 3)
    assert next(items) == 0
    assert wait_until(lambda: len(made) == 4)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3], "the one handed out and three more"
    items.close()


def test_prefetch_raises_what_the_source_raised_with_its_traceback():
    def source():
        yield 1
        raise PlanError("the reason")

    items = prefetch(source(), 2)
    assert next(items) == 1
    with pytest.raises(PlanError, match="the reason") as caught:
        next(items)
    assert "source" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert running() == []


def test_closing_ends_the_thread_and_the_source():
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = prefetch(source(), 2)
    next(items)
    assert len(running()) == 1
    items.close()
    assert running() == []
    assert closed.is_set()


def test_leaving_the_loop_ends_the_thread():
    for item in prefetch(iter(range(10**9)), 4):
        if item == 3:
            break
    gc.collect()
    assert wait_until(lambda: running() == [])


def test_a_negative_depth_is_refused():
    with pytest.raises(ConfigError, match="at least 0"):
        next(prefetch([1], -1))


# ---- Ray Data


def test_streaming_without_ray_says_so(datasets, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(StreamError, match=r"compute\.stream=direct"):
        next(ray_shares(make_plan(datasets["lmdb"]), datasets["lmdb"], **arguments()))


def test_windows_start_small_stay_bounded_and_cover_every_step(monkeypatch):
    keys = np.arange(100, dtype=np.uint64)
    plan = Plan(keys, {"edges": np.ones(100), "atoms": np.ones(100)}, graphs=7)
    # 100 records of 256 + 48 bytes in 15 steps for 2 ranks: 1013 bytes a share
    monkeypatch.setattr(stream, "WINDOW_BYTES", 8 * 1100)
    windows = list(stream._windows(plan, Cursor(0, 3), 4, 2))
    assert [count for _, count in windows] == [1, 2, 4, 8, 8, 8, 8, 8, 8, 2]
    covered = [step for start, count in windows for step in stream._steps(plan, start, count)]
    assert covered == list(plan.steps_from(Cursor(0, 3), 4))


def streaming_threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("StreamingExecutor")]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("storage", ["lmdb", "zarr"])
def test_ray_delivers_the_same_bytes_as_direct_reading(datasets, storage, monkeypatch):
    monkeypatch.setattr(stream, "WINDOW_BYTES", 4096)  # a handful of steps per task
    monkeypatch.setattr(stream, "WINDOWS_PER_EXECUTION", 8)  # and several executions
    dataset, plan = datasets[storage], make_plan(datasets["lmdb"])
    for rank in range(2):
        seat = arguments(rank=rank, world=2, micro_batches=2, cursor=Cursor(1, 3), epochs=12)
        shipped = list(ray_shares(plan, dataset, **seat))
        assert len(shipped) == 11 * plan.num_steps(0) - 3
        assert shipped == list(direct_shares(plan, dataset, **seat))
        assert all(type(blob) is bytes for blob in shipped[0].micro_batches[0])
    assert streaming_threads() == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_closing_the_stream_ends_the_execution(datasets):
    seat = arguments(epochs=3000)
    shares = ray_shares(make_plan(datasets["lmdb"]), datasets["lmdb"], **seat)
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
        list(ray_shares(make_plan(dataset), dataset, **arguments()))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_hold_every_cpu_are_told_instead_of_waiting(datasets):
    import ray

    plan, dataset = make_plan(datasets["lmdb"]), datasets["lmdb"]

    def second_of_two_workers():
        try:
            next(ray_shares(plan, dataset, **arguments(rank=1, world=2)))
        except StreamError as error:
            return str(error)

    message = ray.get(ray.remote(num_cpus=2)(second_of_two_workers).remote())
    assert "2 workers with 2 CPUs each take all 4 of the cluster" in message
    assert "compute.cpus_per_worker" in message


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_others_fill_is_an_error_too(datasets, monkeypatch):
    import ray

    monkeypatch.setattr(stream, "PROBE_TIMEOUT_S", 0.5)
    others = ray.util.placement_group([{"CPU": 4}])
    ray.get(others.ready())
    try:
        with pytest.raises(StreamError, match=r"none of the cluster's 4 came free within 0\.5 s"):
            next(ray_shares(make_plan(datasets["lmdb"]), datasets["lmdb"], **arguments()))
    finally:
        ray.util.remove_placement_group(others)
