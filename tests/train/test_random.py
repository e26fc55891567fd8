"""Draws depend on what they are for, and on nothing else."""

from __future__ import annotations

import numpy as np
import torch

from epitaxy.train.random import generator, seed_torch


def test_equal_keys_give_equal_draws_in_any_order() -> None:
    a = generator(1, 2, "x", "views").normal(size=4)
    generator(1, 2, "y", "views").normal(size=100)
    np.testing.assert_array_equal(generator(1, 2, "x", "views").normal(size=4), a)


def test_every_part_of_the_key_matters() -> None:
    keys = [
        (1, 2, "x", "a"),
        (2, 2, "x", "a"),
        (1, 3, "x", "a"),
        (1, 2, "y", "a"),
        (1, 2, "x", "b"),
    ]
    draws = {tuple(generator(*key).integers(0, 2**32, 4)) for key in keys}
    assert len(draws) == len(keys)


def test_neighbouring_keys_do_not_run_into_each_other() -> None:
    # "1" + "23" and "12" + "3" must differ.
    assert generator(1, 23, "x", "s").random() != generator(12, 3, "x", "s").random()


def test_values_are_pinned() -> None:
    # A change would silently alter every run that is resumed after an update.
    assert generator(0, 0, "pinned", "views").bit_generator.random_raw() == 10285822051979748264


def test_draws_of_many_structures_look_normal() -> None:
    draws = np.array([generator(0, 0, f"s{i}", "views").normal() for i in range(4000)])
    assert abs(draws.mean()) < 5 / np.sqrt(4000)
    assert abs(draws.std() - 1) < 0.06
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.08


def test_torch_is_seeded_per_step_and_rank() -> None:
    def draw(*key: int) -> float:
        seed_torch(*key)
        return float(torch.rand(()))

    assert draw(0, 1, 2, 0) == draw(0, 1, 2, 0)
    assert len({draw(0, 1, 2, 0), draw(0, 1, 3, 0), draw(0, 1, 2, 1), draw(1, 1, 2, 0)}) == 4
