from __future__ import annotations

from typing import Any

import pytest

from epitaxy.encoders.message_passing import MessagePassing
from epitaxy.graph.spec import GraphSpec


def encoder(rule: str, **attributes: Any) -> MessagePassing:
    made = MessagePassing()
    made.spec = GraphSpec(rule, 5.0, 12 if rule in ("nearest", "shell") else None)
    made.envelope, made.node_width = "poly6", 4
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("rule", "attributes", "provided"),
    [
        ("radius", {}, {"node", "position_grad"}),
        ("radius", {"smooth": False}, {"node"}),
        ("nearest", {}, {"node"}),
        ("shell", {"graph_width": 3}, {"node", "graph"}),
        ("radius", {"vector_width": 4}, {"node", "vector", "position_grad"}),
    ],
)
def test_widths_and_the_graph_say_what_is_provided(
    rule: str, attributes: dict[str, Any], provided: set[str]
) -> None:
    assert encoder(rule, **attributes).provides == provided


def test_only_batch_norms_couple_records() -> None:
    coupled = {n: encoder("radius", norm=n).couples_records for n in ("none", "layer", "batch")}
    assert coupled == {"none": False, "layer": False, "batch": True}
    assert encoder("radius", norm="sync_batch").couples_records
