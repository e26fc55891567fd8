"""A few hundred damaged inputs for every reader of stored bytes; ``campaign.py`` feeds millions."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from fuzzing.mutations import MUTATIONS, damaged
from fuzzing.targets import Target, WrongAnswerError, bounded, make_targets

INPUTS = {
    "codec.decode": 1500,
    "codec.decode, checksum forged": 1500,
    "codec.unpack": 800,
    "manifest": 150,
    "LMDB data set": 100,
    "Zarr data set": 30,  # a tenth of a second each
    "Zarr shard by ranges": 30,
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    tracemalloc.start()
    yield make_targets(tmp_path_factory.mktemp("fuzz"))
    tracemalloc.stop()


@pytest.mark.parametrize("name", INPUTS)
def test_damage_is_refused_or_makes_no_difference(name: str, targets: dict[str, Target]) -> None:
    assert sorted(targets) == sorted(INPUTS)
    outcomes: Counter[str] = Counter()
    for seed in range(INPUTS[name]):
        try:
            outcomes[targets[name](random.Random(seed))] += 1
        except BaseException as error:
            raise AssertionError(f"input {seed} of {name}: {type(error).__name__}") from error
    assert outcomes["refused"] > 0.5 * sum(outcomes.values())


def test_every_mutation_changes_something() -> None:
    contents = [bytes(range(256)) * 9, bytes(reversed(range(256))) * 9]
    for mutation in MUTATIONS:
        changed = 0
        for seed in range(20):
            content = bytearray(contents[0])
            mutation(random.Random(seed), content, contents)
            changed += bytes(content) != contents[0]
        assert changed > 5, mutation.__name__


def test_an_input_is_known_by_its_seed() -> None:
    contents = [bytes(range(256))]
    assert damaged(random.Random(5), contents) == damaged(random.Random(5), contents)
    assert damaged(random.Random(5), contents) != damaged(random.Random(6), contents)


def test_memory_beyond_the_allowance_is_noticed(targets: dict[str, Target]) -> None:
    with pytest.raises(WrongAnswerError, match="bytes were allocated"):
        bounded(lambda: bytes(10_000_000), 1_000_000)
