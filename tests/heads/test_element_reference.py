from __future__ import annotations

import numpy as np
import pytest

from epitaxy.heads.element_reference import fit_element_reference, robust_spread

TRUE = {1: -3.0, 8: -7.5, 26: -8.25}


def compositions(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = np.zeros((count, 119), dtype=np.int64)
    table[:, list(TRUE)] = rng.integers(0, 5, (count, 3))
    table[:, 8] += 1
    return table


def energies(table: np.ndarray) -> np.ndarray:
    return table[:, list(TRUE)] @ np.array(list(TRUE.values()))


def test_exact_sums_give_back_their_parts() -> None:
    table = compositions(30)
    fitted = fit_element_reference(table, energies(table))
    assert fitted.energies == pytest.approx(TRUE, abs=1e-5)
    assert fitted.spread < 1e-5


def test_wild_frames_do_not_move_it() -> None:
    table = compositions(200)
    noise = np.random.default_rng(1).normal(0, 0.01, 200)
    wild = energies(table) + noise * table.sum(1)
    wild[::20] += 15.0 * table.sum(1)[::20]  # 5 % of the frames are 15 eV/atom off
    plain = np.linalg.lstsq(table[:, list(TRUE)], wild, rcond=None)[0]
    fitted = fit_element_reference(table, wild)
    assert fitted.energies == pytest.approx(TRUE, abs=0.02)
    assert np.abs(plain - list(TRUE.values())).max() > 0.2
    assert 0.005 < fitted.spread < 0.02


def test_one_stoichiometry_is_fitted_although_its_parts_are_undetermined() -> None:
    table = np.zeros((5, 119), dtype=np.int64)
    table[:, [11, 17]] = 4
    fitted = fit_element_reference(table, np.full(5, -27.2))
    assert 4 * (fitted.energies[11] + fitted.energies[17]) == pytest.approx(-27.2, abs=1e-4)
    assert fitted.energies[11] == pytest.approx(fitted.energies[17])


def test_elements_that_never_occurred_get_the_median_per_atom() -> None:
    table = compositions(31)
    fitted = fit_element_reference(table, energies(table))
    assert set(fitted.energies) == set(TRUE)
    assert fitted.other == pytest.approx(float(np.median(energies(table) / table.sum(1))))


def test_the_robust_spread_is_the_standard_deviation_of_a_normal_sample() -> None:
    sample = np.random.default_rng(0).normal(0, 2.5, 20_000)
    assert robust_spread(sample) == pytest.approx(2.5, rel=0.03)
    sample[:100] = 1e6
    assert robust_spread(sample) == pytest.approx(2.5, rel=0.04)
