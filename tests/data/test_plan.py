import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epitaxy.data.order import SetShare, Shuffle
from epitaxy.data.plan import Cursor, Plan
from epitaxy.data.sidecars import keys_of
from epitaxy.errors import PlanError

UNSHUFFLED = Shuffle("none")


def in_order(count):
    """Keys of records that an unshuffled plan takes one after the other."""
    return np.arange(count, dtype=np.uint64)


def make_plan(count=50, *, seed=0, shift=0, by="records", **options):
    """A plan with skewed, reproducible costs; row = position + shift."""
    rng = np.random.default_rng(count)
    ids = np.array([f"id{index:04d}" for index in range(count)])
    edges = np.ceil(rng.lognormal(4, 1.2, count)).astype(np.int64)
    costs = {"edges": edges, "atoms": edges // 20 + 1}
    batch = {} if {"graphs", "edges", "atoms"} & set(options) else {"graphs": 8}
    rows = np.arange(count) + shift
    return Plan(keys_of(ids), costs, rows=rows, shuffle=Shuffle(by, seed), **batch, **options)


def sequence(plan, cursor, epochs):
    return [
        (step, plan.step_rows(step.epoch, step.step).tolist())
        for step in plan.steps_from(cursor, epochs)
    ]


BATCHES = st.one_of(
    st.integers(1, 20).map(lambda size: {"graphs": size}),
    st.integers(1, 2000).map(lambda size: {"edges": size}),
    st.integers(1, 100).map(lambda size: {"atoms": size}),
)


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 70),
    batch=BATCHES,
    epoch=st.integers(0, 3),
    by=st.sampled_from(["records", "blocks", "none"]),
    world=st.integers(1, 5),
    micro_batches=st.integers(1, 3),
)
def test_every_record_comes_once_per_epoch_whoever_reads_it(
    count, batch, epoch, by, world, micro_batches
):
    plan = make_plan(count, by=by, shift=1000, **batch)
    seen = []
    for step in range(plan.num_steps(epoch)):
        rows = plan.step_rows(epoch, step).tolist()
        shares = [plan.share(epoch, step, rank, world, micro_batches) for rank in range(world)]
        assert all(len(share) == micro_batches for share in shares)
        dealt = [row for share in shares for part in share for row in part.tolist()]
        assert sorted(dealt) == sorted(rows), "shares partition their step"
        assert rows, "no step is empty"
        seen += rows
    assert sorted(seen) == list(range(1000, 1000 + count))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), budget=st.integers(1, 1500), epoch=st.integers(0, 2))
def test_budget_steps_are_greedy(count, budget, epoch):
    plan = make_plan(count, edges=budget)
    rng = np.random.default_rng(count)
    cost = np.ceil(rng.lognormal(4, 1.2, count)).astype(np.int64)
    expected, current = [], []
    for row in np.concatenate([plan.step_rows(epoch, s) for s in range(plan.num_steps(epoch))]):
        if current and sum(cost[current]) + cost[row] > budget:
            expected.append(current)
            current = []
        current = [*current, int(row)]
    expected.append(current)
    assert [plan.step_rows(epoch, s).tolist() for s in range(len(expected))] == expected


def test_a_record_beyond_the_budget_is_a_step_of_its_own_and_counted(caplog):
    costs = {"edges": np.array([5, 500, 5, 5]), "atoms": np.ones(4)}
    with caplog.at_level(logging.WARNING):
        plan = Plan(in_order(4), costs, edges=20, shuffle=UNSHUFFLED)
    assert [plan.step_rows(0, s).tolist() for s in range(3)] == [[0], [1], [2, 3]]
    assert plan.num_oversized == 1
    assert "1 of 4 records exceed the budget of 20 edges" in caplog.text


def test_a_record_beyond_the_budget_is_refused_or_left_out_if_asked(caplog):
    costs = {"edges": np.array([5, 500, 5, 5]), "atoms": np.ones(4)}
    with pytest.raises(PlanError, match=r"1 of 4 records .*largest: 500.* row 1; raise"):
        Plan(in_order(4), costs, edges=20, oversize="error")
    with caplog.at_level(logging.WARNING):
        plan = Plan(in_order(4), costs, edges=20, oversize="skip", shuffle=UNSHUFFLED)
    assert [plan.step_rows(0, s).tolist() for s in range(plan.num_steps(0))] == [[0, 2, 3]]
    assert (plan.num_oversized, plan.num_skipped, plan.num_records) == (1, 1, 3)
    assert "they are left out" in caplog.text
    assert Plan(in_order(4), costs, edges=500, oversize="error").num_oversized == 0


def test_the_last_step_may_be_smaller():
    plan = make_plan(50)
    assert [len(plan.step_rows(0, s)) for s in range(plan.num_steps(0))] == [8, 8, 8, 8, 8, 8, 2]


def test_epochs_differ_and_the_seed_decides():
    plan, same, other = make_plan(), make_plan(), make_plan(seed=1)
    assert sequence(plan, Cursor(), 2) == sequence(same, Cursor(), 2)
    first, second = (plan.step_rows(epoch, 0).tolist() for epoch in (0, 1))
    assert first != second
    assert first != other.step_rows(0, 0).tolist()


def philox_4x64(counter, key):
    """Ten rounds of Philox (Salmon et al. 2011, section 3.3), written out from the paper."""
    words, (low, high), mask = [counter, 0, 0, 0], key, 2**64 - 1
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [
            second >> 64 ^ words[1] ^ low,
            second & mask,
            first >> 64 ^ words[3] ^ high,
            first & mask,
        ]
        low, high = low + 0x9E3779B97F4A7C15 & mask, high + 0xBB67AE8584CAA73B & mask
    return words


def split_mix(word):
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), on Python's whole numbers."""
    mask = 2**64 - 1
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ word >> 27) * 0x94D049BB133111EB & mask
    return word ^ word >> 31


def test_the_order_is_the_documented_one():
    """Machines and versions of NumPy may change; the order of a run must not."""
    first, second = philox_4x64(1, (3, 2))[:2]
    keys = keys_of([f"id{index:04d}" for index in range(12)]).tolist()
    words = [
        split_mix(split_mix(key ^ first) + second & 2**64 - 1) + first & 2**64 - 1 for key in keys
    ]
    expected = sorted(range(12), key=words.__getitem__)
    assert make_plan(12, seed=3, graphs=12).step_rows(2, 0).tolist() == expected


def test_the_permutation_is_even():
    """Each of 20 records comes first about equally often over 4000 epochs (chi-square, 19 dof)."""
    plan = make_plan(20, graphs=1)
    firsts = np.bincount([plan.step_rows(epoch, 0)[0] for epoch in range(4000)], minlength=20)
    assert ((firsts - 200) ** 2 / 200).sum() < 43.8, "p > 0.001"


def test_unshuffled_plans_follow_the_rows():
    """Validation of a compressed or remote data set decodes each of its blocks once."""
    costs = {"edges": np.ones(3), "atoms": np.ones(3)}
    keys, rows = np.array([5, 9, 2], np.uint64), np.array([3, 4, 8])
    plan = Plan(keys, costs, rows=rows, graphs=2, shuffle=UNSHUFFLED)
    assert sequence(plan, Cursor(), 1) == [(Cursor(0, 0), [3, 4]), (Cursor(0, 1), [8])]


def test_the_order_of_rows_in_storage_does_not_matter():
    """Another storage of the same records, in another order, gives the same ids in every step."""
    rng = np.random.default_rng(5)
    ids = np.array([f"id{index}" for index in range(40)])
    edges = rng.integers(1, 500, 40)
    moved = rng.permutation(40)
    keys = keys_of(ids)
    first = Plan(keys, {"edges": edges, "atoms": edges}, edges=900)
    second = Plan(keys[moved], {"edges": edges[moved], "atoms": edges[moved]}, edges=900)
    assert first.digest == second.digest
    here, there = ids, ids[moved]
    for step in range(first.num_steps(1)):
        rows, others = first.step_rows(1, step), second.step_rows(1, step)
        assert here[rows].tolist() == there[others].tolist()
        shares = zip(first.share(1, step, 1, 2, 2), second.share(1, step, 1, 2, 2), strict=True)
        assert all(here[mine].tolist() == there[theirs].tolist() for mine, theirs in shares)


@settings(max_examples=40, deadline=None)
@given(batch=BATCHES, stop=st.integers(0, 60), epochs=st.integers(1, 4))
def test_resuming_gives_the_tail_of_the_undisturbed_sequence(batch, stop, epochs):
    undisturbed = sequence(make_plan(30, **batch), Cursor(), epochs)
    stop = min(stop, len(undisturbed) - 1)
    step = undisturbed[stop][0]
    # A checkpoint after the last step of an epoch may say (epoch, num_steps) or (epoch + 1, 0).
    saved = Cursor.from_json(json.loads(json.dumps(Cursor(step.epoch, step.step + 1).to_json())))
    assert sequence(make_plan(30, **batch), saved, epochs) == undisturbed[stop + 1 :]
    assert sequence(make_plan(30, **batch), step, epochs) == undisturbed[stop:]


def test_dealing_balances_skewed_costs():
    rng = np.random.default_rng(0)
    edges = np.ceil(rng.lognormal(6, 1.3, 4096)).astype(np.int64)
    keys = keys_of([f"{index:05d}" for index in range(4096)])
    plan = Plan(keys, {"edges": edges, "atoms": edges // 30 + 1}, graphs=256)
    cost = edges + edges // 30 + 1
    dealt, naive = [], []
    for step in range(plan.num_steps(0)):
        rows = plan.step_rows(0, step)
        mean = cost[rows].sum() / 8
        dealt.append(max(cost[plan.share(0, step, r, 8, 1)[0]].sum() for r in range(8)) / mean)
        naive.append(max(cost[rows[r::8]].sum() for r in range(8)) / mean)
    assert np.mean(dealt) < 1.01, "the slowest rank has at most 1 % more than the mean"
    assert np.mean(naive) > 1.3, "dealing in turn would cost 30 % or more"


def test_longest_first_by_hand():
    # Costs (edges + atoms) 8 7 6 5 4 on two bins: 8 | 7; 6 joins 7; 5 joins 8; both hold 13 and
    # two records, so 4 goes to the first.
    costs = {"edges": np.array([7, 6, 5, 4, 3]), "atoms": np.ones(5, dtype=np.int64)}
    plan = Plan(in_order(5), costs, graphs=5, shuffle=UNSHUFFLED)
    assert [plan.share(0, 0, rank, 2, 1)[0].tolist() for rank in (0, 1)] == [[0, 3, 4], [1, 2]]


def test_a_small_step_reaches_every_rank_first():
    plan = make_plan(4, graphs=4)
    counts = [[len(part) for part in plan.share(0, 0, rank, 4, 2)] for rank in range(4)]
    assert counts == [[1, 0]] * 4


def test_records_without_edges_are_spread_too():
    costs = {"edges": np.zeros(8, dtype=np.int64), "atoms": np.zeros(8, dtype=np.int64)}
    plan = Plan(in_order(8), costs, graphs=8)
    assert [len(plan.share(0, 0, rank, 4, 1)[0]) for rank in range(4)] == [2, 2, 2, 2]


INGREDIENTS = {
    "seed": {"seed": 1},
    "shuffle": {"by": "none"},
    "batch.oversize": {"oversize": "skip"},
    "batch.edges": {"edges": 501},
    "data_digest": {"data_digest": "other"},
    "selection.filter.max_force": {"selection": {"filter": {"max_force": 30.0}}},
    "selection.exclude": {"selection": {"exclude": "ab12"}},
}


@pytest.mark.parametrize(("field", "change"), INGREDIENTS.items())
def test_the_digest_covers_every_ingredient_and_check_names_it(field, change):
    base = {"edges": 500}
    plan, other = make_plan(**base), make_plan(**{**base, **change})
    assert plan.digest != other.digest
    with pytest.raises(PlanError, match=rf"another plan: .*{field.replace('.', '[.]')} was"):
        other.check(json.loads(json.dumps(plan.description)))
    plan.check(json.loads(json.dumps(plan.description)))


def test_the_digest_covers_records_costs_and_the_packing_version(monkeypatch):
    ids, edges = keys_of("abcd"), np.array([3, 1, 2, 4])
    plan = Plan(ids, {"edges": edges, "atoms": edges}, edges=5)
    renamed = Plan(keys_of("abce"), {"edges": edges, "atoms": edges}, edges=5)
    dearer = Plan(ids, {"edges": edges + 1, "atoms": edges}, edges=5)
    monkeypatch.setattr("epitaxy.data.plan.PACKING_VERSION", 3)
    newer = Plan(ids, {"edges": edges, "atoms": edges}, edges=5)
    assert len({item.digest for item in (plan, renamed, dearer, newer)}) == 4
    with pytest.raises(PlanError, match="packing_version was 2, is 3"):
        newer.check(plan.description)


def test_costs_do_not_matter_to_the_digest_of_fixed_counts():
    """They only balance shares, which are dealt anew on every resume."""
    ids, edges = keys_of("abcd"), np.array([3, 1, 2, 4])
    first = Plan(ids, {"edges": edges, "atoms": edges}, graphs=2)
    second = Plan(ids, {"edges": edges * 2, "atoms": edges}, graphs=2)
    assert first.digest == second.digest


def test_progress_counts_records():
    plan = make_plan(50)
    assert [plan.progress(Cursor(1, step)) for step in (0, 1, 6, 7)] == [0, 8 / 50, 48 / 50, 1]
    with pytest.raises(PlanError, match="beyond the 7 steps"):
        plan.progress(Cursor(0, 8))


def test_pickling_keeps_the_plan_and_drops_its_cache():
    plan = make_plan(2000)
    before = sequence(plan, Cursor(0, 3), 3)
    payload = pickle.dumps(plan)
    assert len(payload) < 3 * 8 * 2000 + 2000
    assert sequence(pickle.loads(payload), Cursor(0, 3), 3) == before
    assert pickle.loads(payload).digest == plan.digest


def test_a_plan_without_records_has_no_steps():
    empty = Plan(in_order(0), {"edges": np.array([]), "atoms": np.array([])}, edges=5)
    assert list(empty.steps_from(Cursor(), 3)) == []
    assert empty.progress(Cursor()) == 0.0


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (2, {"graphs": 2}, "2 records got 3 edges"),
        (3, {}, "exactly one of batch.graphs"),
        (3, {"graphs": 2, "edges": 9}, "set the others to null"),
        (3, {"atoms": 0}, "batch.atoms must be at least 1"),
        (3, {"graphs": 2, "oversize": "drop"}, "batch.oversize is 'drop'"),
        (3, {"edges": 0.5, "oversize": "error"}, "at least 1"),
        (3, {"graphs": 2, "sets": [SetShare(2)]}, "data sets of other sizes"),
        (3, {"graphs": 2, "sets": [SetShare(2, 1.0), SetShare(1)]}, "mix.weights must be"),
        (3, {"graphs": 2, "sets": [SetShare(2, 1.0), SetShare(1, -1.0)]}, "mix.weights must be"),
        (3, {"graphs": 2, "sets": [SetShare(3, 1.0), SetShare(0, 1.0)]}, "no record left"),
        (3, {"graphs": 2, "epoch_records": 5}, "give both"),
    ],
)
def test_impossible_plans_are_refused(count, options, message):
    with pytest.raises(PlanError, match=message):
        Plan(in_order(count), {"edges": np.ones(3), "atoms": np.ones(3)}, **options)


def test_wrong_shares_and_steps_are_refused():
    plan = make_plan()
    with pytest.raises(PlanError, match="rank 2 of 2"):
        plan.share(0, 0, 2, 2, 1)
    with pytest.raises(PlanError, match="7 steps; there is no step 7"):
        plan.step_rows(0, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 1}, "whole numbers"),
        ({"epoch": 1, "step": None}, "whole numbers"),
        ({"epoch": 1, "step": -1}, "from zero"),
        ({"epoch": 1, "step": 2, "mixture": [3]}, "'mixture' that this version cannot follow"),
    ],
)
def test_bad_cursors_are_refused(data, message):
    with pytest.raises(PlanError, match=message):
        Cursor.from_json(data)


def test_a_sample_is_even_and_always_the_same():
    plan = make_plan(5000, shift=7)
    sample = plan.sample(1000)
    assert len(np.unique(sample)) == 1000
    assert sample.tolist() == sorted(make_plan(5000, shift=7, seed=3).sample(1000).tolist())
    counts = np.bincount((sample - 7) // 500, minlength=10)
    assert ((counts - 100) ** 2 / 90).sum() < 27.9, "p > 0.001 at 9 degrees of freedom"
    assert plan.sample(5000).tolist() == plan.rows.tolist()
