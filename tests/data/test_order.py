"""Orders of epochs: blocks of storage, and mixtures of data sets."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.order import BLOCK, SetShare, Shuffle, merged, ranked
from epitaxy.data.plan import Plan
from epitaxy.data.sidecars import keys_of


@given(st.lists(st.integers(0, 9) | st.integers(2**64 - 10, 2**64 - 1), max_size=300))
def test_words_are_ranked_by_all_their_bits(values):
    """Words that differ in their lowest bits only, where the fast sort keeps an index instead."""
    words = np.array(values, dtype=np.uint64)
    assert ranked(words).tolist() == np.argsort(words, kind="stable").tolist()


def test_blocks_are_read_whole_and_shuffled_within_a_window():
    """40 blocks, four at a time: a reader that holds four decodes each block once per epoch."""
    count = 40 * BLOCK
    keys, ones = keys_of(str(index) for index in range(count)), np.ones(count)
    costs = {"edges": ones, "atoms": ones}
    plan = Plan(keys, costs, graphs=count, shuffle=Shuffle("blocks", seed=1, window=4))
    windows = []
    for epoch in (0, 1):
        blocks = plan.step_rows(epoch, 0) // BLOCK
        parts = [np.unique(part) for part in blocks.reshape(10, 4 * BLOCK)]
        assert [len(part) for part in parts] == [4] * 10
        assert sorted(np.concatenate(parts).tolist()) == list(range(40))
        assert (np.diff(blocks[: 4 * BLOCK]) != 0).mean() > 0.6, "blocks of a window are mixed"
        windows.append({frozenset(part.tolist()) for part in parts})
    assert len(windows[0] & windows[1]) < 3, "other blocks meet in the next epoch"


def test_a_block_is_counted_from_the_first_row_of_its_data_set():
    keys, ones = np.arange(2 * BLOCK, dtype=np.uint64), np.ones(2 * BLOCK)
    costs = {"edges": ones, "atoms": ones}
    sets = [SetShare(2 * BLOCK, None, "", 100)]
    rows = np.arange(2 * BLOCK) + 100
    shuffle = Shuffle("blocks", window=1)
    plan = Plan(keys, costs, rows=rows, graphs=BLOCK, shuffle=shuffle, sets=sets)
    firsts = [plan.step_rows(0, step) - 100 for step in (0, 1)]
    assert sorted(len(set((part // BLOCK).tolist())) for part in firsts) == [1, 1]


def mixture(weights, *, sizes=(30, 7, 90), epoch_records=None, **options):
    keys = np.concatenate([keys_of(f"{s}-{i}" for i in range(n)) for s, n in enumerate(sizes)])
    sets = [SetShare(n, w, f"d{s}") for s, (n, w) in enumerate(zip(sizes, weights, strict=True))]
    ones = np.ones(sum(sizes))
    costs = {"edges": ones, "atoms": ones}
    return Plan(keys, costs, graphs=10, sets=sets, epoch_records=epoch_records, **options)


def epoch_rows(plan, epoch):
    return np.concatenate([plan.step_rows(epoch, s) for s in range(plan.num_steps(epoch))])


def set_of(rows, sizes=(30, 7, 90)):
    return np.searchsorted(np.cumsum(sizes), rows, side="right")


def test_a_mixture_without_weights_takes_every_record_once():
    plan = mixture([None] * 3)
    for epoch in (0, 1):
        assert sorted(epoch_rows(plan, epoch).tolist()) == list(range(127))
    assert epoch_rows(plan, 0).tolist() != epoch_rows(plan, 1).tolist()


def test_weights_are_shares_of_every_epoch_and_of_every_step():
    plan = mixture([5.0, 3.0, 2.0], epoch_records=200)
    assert plan.draws == [100, 60, 40]
    assert plan.num_records == 200
    for epoch in range(3):
        assert np.bincount(set_of(epoch_rows(plan, epoch))).tolist() == [100, 60, 40]
        for step in range(20):
            parts = np.bincount(set_of(plan.step_rows(epoch, step)), minlength=3)
            assert np.abs(parts - [5, 3, 2]).max() <= 2, "every step has the mixture"


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.05, 5), min_size=3, max_size=3),
    records=st.integers(1, 400),
    epochs=st.integers(1, 12),
)
def test_a_set_is_an_endless_stream_of_whole_passes(weights, records, epochs):
    """However weights and epochs fall, no record is two visits ahead of another of its set."""
    plan = mixture(weights, epoch_records=records)
    rows = np.concatenate([epoch_rows(plan, epoch) for epoch in range(epochs)])
    visits = np.bincount(rows, minlength=127)
    for part in np.split(visits, np.cumsum((30, 7))):
        assert part.max() - part.min() <= 1
    assert len(rows) == records * epochs


def test_weights_of_a_mixture_are_dealt_by_largest_remainder():
    assert mixture([1.0, 1.0, 1.0], epoch_records=100).draws == [34, 33, 33]
    assert mixture([0.0, 1.0, 0.0], epoch_records=20).draws == [0, 20, 0]
    assert sum(mixture([0.1, 0.2, 0.3]).draws) == 127


def test_sets_with_the_same_ids_have_their_own_orders():
    keys = keys_of(str(index) for index in range(50))
    ones = np.ones(100)
    sets = [SetShare(50, None, "a"), SetShare(50, None, "b")]
    costs = {"edges": ones, "atoms": ones}
    plan = Plan(np.concatenate([keys, keys]), costs, graphs=100, sets=sets)
    rows = plan.step_rows(0, 0)
    assert rows[rows < 50].tolist() != (rows[rows >= 50] - 50).tolist()


def test_merged_sequences_keep_their_order_and_keep_pace():
    order = merged([1000, 100, 10], seed=0, counter=0)
    first, second, third = (
        order[(order >= a) & (order < b)] for a, b in ((0, 1000), (1000, 1100), (1100, 1110))
    )
    for part in (first, second, third):
        assert (np.diff(part) > 0).all()
    taken = np.cumsum(order >= 1000)
    assert np.abs(taken - np.arange(1, 1111) * 110 / 1110).max() < 3
