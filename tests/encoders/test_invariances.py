from __future__ import annotations

from typing import Any

import pytest

from epitaxy.encoders.invariances import invariances_of
from epitaxy.graph.spec import GraphSpec

ALL = {"rotation", "translation", "permutation", "unit_cell", "supercell", "smooth_cutoff"}


@pytest.mark.parametrize(
    ("rule", "envelope", "lost"),
    [
        ({}, "poly6", set()),
        ({}, "none", {"smooth_cutoff"}),
        ({"line_graph": True, "self_angles": True}, "poly6", set()),
        ({"line_graph": True}, "poly6", {"supercell"}),
        ({"max_images": 2}, "poly6", {"unit_cell", "supercell", "smooth_cutoff"}),
        ({"max_neighbors": 250, "ties": "keep"}, "poly6", {"smooth_cutoff"}),
        (
            {"max_neighbors": 250},
            "poly6",
            {"permutation", "unit_cell", "supercell", "smooth_cutoff"},
        ),
        ({"rule": "minimum_image"}, "none", {"unit_cell", "supercell", "smooth_cutoff"}),
        (
            {"rule": "shell", "max_neighbors": 12, "repeats": "self"},
            "none",
            {"supercell", "smooth_cutoff"},
        ),
        ({"rule": "shell", "max_neighbors": 12}, "none", {"smooth_cutoff"}),
    ],
)
def test_what_a_graph_keeps(rule: dict[str, Any], envelope: Any, lost: set[str]) -> None:
    assert invariances_of(GraphSpec(**rule), envelope) == ALL - lost
