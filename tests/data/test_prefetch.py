"""Prefetching: order, depth, errors in their turn, stalls, and no thread left behind."""

import gc
import logging
import threading
import time
import traceback
from itertools import islice

import pytest

from epitaxy.data import prefetch as module
from epitaxy.data.prefetch import Patience, prefetch
from epitaxy.errors import ConfigError, PlanError, StreamError


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


@pytest.mark.parametrize("setting", [{"depth": -1}, {"depth": 1, "threads": 0}])
def test_a_negative_depth_or_no_thread_is_refused(setting):
    with pytest.raises(ConfigError, match="at least 0 and its threads at least 1"):
        next(prefetch([1], **setting))


# ---- several threads


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_keep_the_order_of_their_items_however_long_each_takes(threads):
    def slow_first(item):
        time.sleep(0.01 if item % 4 == 0 else 0.0)
        return -item

    assert list(prefetch(range(60), 6, slow_first, threads=threads)) == [-i for i in range(60)]
    assert running() == []


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)  # passes only when three are inside at once

    def work(item):
        meeting.wait()
        return item

    assert list(prefetch(range(9), 3, work, threads=3)) == list(range(9))


def test_more_threads_than_depth_work_no_further_ahead():
    taken = []

    def source():
        for index in range(10):
            taken.append(index)
            yield index

    items = prefetch(source(), 2, threads=4)
    assert next(items) == 0
    assert wait_until(lambda: len(taken) == 3)
    time.sleep(0.05)
    assert (taken, len(running())) == ([0, 1, 2], 2)
    items.close()


@pytest.mark.parametrize("depth", [0, 3])
def test_an_error_comes_in_its_turn_after_everything_before_it(depth):
    def work(item):
        if item == 5:
            raise PlanError("item 5")
        time.sleep(0.01 * (item == 4))  # the one before it is still at work when 5 has failed
        return item

    items = prefetch(range(100), depth, work, threads=3)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(PlanError, match="item 5"):
        next(items)
    assert running() == []


def test_an_error_that_looks_like_waiting_is_passed_on():
    def work(item):
        raise TimeoutError("of the file system")

    with pytest.raises(TimeoutError, match="of the file system"):
        next(prefetch([1], 1, work, patience=Patience(warn_s=0.01)))


def test_closing_while_every_thread_is_at_work_waits_for_them_and_closes_the_source():
    closed, inside = threading.Event(), threading.Semaphore(0)

    def source():
        try:
            yield from range(100)
        finally:
            closed.set()

    def work(item):
        inside.release()
        time.sleep(0.05)
        return item

    items = prefetch(source(), 4, work, threads=4)
    next(items)
    inside.acquire()
    items.close()
    assert closed.is_set()
    assert running() == []


# ---- slow and stuck sources


def stuck(release):
    """Yields one item, then nothing until ``release``."""
    yield 1
    release.wait(20)
    yield 2


def test_a_slow_source_is_named_again_and_again_and_its_item_still_comes(caplog):
    release = threading.Event()
    threading.Timer(0.35, release.set).start()
    patience = Patience(warn_s=0.05, source="the shards on rank 3")
    with caplog.at_level(logging.WARNING):
        assert list(prefetch(stuck(release), 2, patience=patience)) == [1, 2]
    told = [r.message for r in caplog.records if "waiting for the shards on rank 3" in r.message]
    assert 2 <= len(told) <= 3, "after 0.05, 0.1 and 0.2 s"


def test_a_source_that_takes_too_long_is_an_error_and_closing_does_not_hang(monkeypatch, caplog):
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.1)
    release = threading.Event()
    items = prefetch(stuck(release), 2, patience=Patience(limit_s=0.2, source="the shards"))
    assert next(items) == 1
    began = time.monotonic()
    with pytest.raises(StreamError, match=r"nothing came from the shards for 0\.2 s"):
        next(items)
    assert time.monotonic() - began < 5
    assert "left behind" in caplog.text
    release.set()
    assert wait_until(lambda: running() == [])
