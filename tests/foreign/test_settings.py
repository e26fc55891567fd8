from __future__ import annotations

from typing import Any

import pytest

from epitaxy.errors import ConfigError
from epitaxy.foreign.settings import check_options, importer_arguments, settings_in


def test_files_say_it_under_their_own_names() -> None:
    nested = {"epochs": 3, "dataset": {"max_num_nbr": 12, "radius": 8, "dmin": 0, "step": 0.2}}
    assert settings_in(nested) == {"max_neighbors": 12, "radius": 8, "dmin": 0, "step": 0.2}
    crysxpp = {"radius": 8, "max_nbr": 10, "lr": 0.01, "train_size": None, "feature_selector": True}
    assert settings_in(crysxpp) == {"radius": 8, "max_neighbors": 10}
    assert settings_in({"task": "regression", "robust": True}) == {
        "task": "regression",
        "robust": True,
    }


def test_what_means_something_else_elsewhere_is_not_taken() -> None:
    others = {"pool": "global_mean_pool", "order": 3, "mean": 1.0, "heads": 4, "task": "train"}
    assert settings_in(others) == {}
    assert settings_in({"radius": None, "max_nbr": "all", "dmin": [0]}) == {}


def test_options_are_checked() -> None:
    assert check_options({"radius": 6, "max_num_nbr": 8, "dmin": None}) == {
        "radius": 6,
        "max_neighbors": 8,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raduis": 6}, "no option 'raduis'; did you mean 'radius'"),
        ({"radius": "6"}, "options.radius is '6', expected a length in Å"),
        ({"radius": float("inf")}, "expected a length"),
        ({"max_neighbors": 7.5}, "options.max_neighbors is 7.5, expected a whole number above 0"),
        ({"max_nbr": 0}, "options.max_nbr is 0"),
        ({"std": 0.0}, "expected a number above 0"),
        ({"mean": True}, "options.mean is True, expected a number"),
        ({"robust": 1}, "expected true or false"),
        ({"pool": 3}, "expected a word"),
        ({"task": "ranking"}, "expected regression or classification"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(options)


def test_each_family_gets_what_it_takes() -> None:
    found = {"radius": 6.0, "max_neighbors": 8, "dmin": 0.1, "task": "regression", "robust": True}
    graph = {"radius": 6.0, "max_neighbors": 8, "dmin": 0.1}
    assert importer_arguments("cgcnn", found, {}) == {"graph": graph}
    assert importer_arguments("cgcnn", found, {"radius": 7.0}) == {"graph": graph | {"radius": 7.0}}
    assert importer_arguments("gatgnn", found, {"attention": "cluster_fixed"}) == {
        "attention": "cluster_fixed",
        "graph": {"radius": 6.0, "max_neighbors": 8},
    }
    assert importer_arguments("roost", found, {"mean": 1.0, "std": 2.0}) == {"robust": True}
    assert importer_arguments("torchmd_et", {}, {"heads": 4}) == {"heads": 4}


def test_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"options.heads has no meaning for the family cgcnn"):
        importer_arguments("cgcnn", {}, {"heads": 4})
    with pytest.raises(ConfigError, match=r"options.radius has no meaning for the family alignn"):
        importer_arguments("alignn", {}, {"radius": 8.0})
