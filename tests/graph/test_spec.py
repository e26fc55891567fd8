from __future__ import annotations

import pytest

from epitaxy.errors import ConfigError
from epitaxy.graph.spec import GraphSpec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rule": "knn"},
            "graph rule is 'knn'; .*composition, minimum_image, nearest, radius, shell",
        ),
        ({"rule": "shell"}, "needs max_neighbors"),
        ({"ties": "drop"}, "graph ties is 'drop'"),
        ({"repeats": "self"}, "only meaningful with rule 'shell'"),
        ({"tie_width": -1.0}, "tie_width must be from 0"),
        ({"max_images": 0}, "max_images must be at least 1"),
        ({"rule": "shell", "max_neighbors": 12, "max_images": 2}, "only meaningful"),
        ({"rule": "composition", "line_graph": True}, "no distances"),
        ({"max_neighbors": 12, "reverse": True}, "every edge runs back"),
        ({"rule": "minimum_image", "reverse": True}, "every edge runs back"),
        ({"rule": "nearest", "max_neighbors": 4, "padded": True, "ties": "keep"}, "ties 'cut'"),
        ({"rule": "nearest", "max_neighbors": 4, "padded": True, "line_graph": True}, "no bonds"),
        ({"cutoff": 0.0}, "cutoff must be positive"),
        ({"cutoff": float("nan")}, "cutoff must be positive"),
        ({"max_neighbors": 0}, "at least 1"),
        ({"rule": "nearest"}, "needs max_neighbors"),
        ({"padded": True}, "only meaningful with rule 'nearest'"),
        ({"self_angles": True}, "only meaningful with line_graph=true"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GraphSpec(**arguments)


def test_equal_rules_are_one_key():
    graphs = {GraphSpec(): 1, GraphSpec("nearest", 8.0, 12): 2}
    assert graphs[GraphSpec("radius", 8.0)] == 1
    assert graphs[GraphSpec("nearest", 8.0, 12)] == 2


def test_the_digest_tells_rules_apart_and_is_stable():
    rules = [
        GraphSpec(),
        GraphSpec(cutoff=5.0),
        GraphSpec(max_neighbors=12),
        GraphSpec("nearest", 8.0, 12),
        GraphSpec("nearest", 8.0, 12, padded=True),
        GraphSpec("nearest", 8.0, 12, ties="keep"),
        GraphSpec("nearest", 8.0, 12, ties="keep", tie_width=1e-6),
        GraphSpec("shell", 8.0, 12),
        GraphSpec("shell", 8.0, 12, repeats="self"),
        GraphSpec("shell", 8.0, 12, repeats="mutual"),
        GraphSpec("shell", 8.0, 12, line_graph=True),
        GraphSpec("shell", 8.0, 12, line_graph=True, self_angles=True),
        GraphSpec(max_images=2),
        GraphSpec(reverse=True),
        GraphSpec("minimum_image"),
        GraphSpec("composition"),
    ]
    assert len({rule.digest() for rule in rules}) == len(rules)
    assert GraphSpec(cutoff=8).digest() == GraphSpec().digest()
    # Kept in checkpoints and caches: a change here orphans them.
    assert GraphSpec().digest() == "5438a5f5b1ade881"


def test_where_nothing_is_cut_both_ways_to_cut_are_one_graph():
    assert GraphSpec(cutoff=5.0, ties="keep") == GraphSpec(cutoff=5.0)
    assert GraphSpec("nearest", 5.0, 3, ties="keep") != GraphSpec("nearest", 5.0, 3)
