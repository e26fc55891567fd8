"""CrysXPP: the masked features and the output."""

from __future__ import annotations

from published_models import OUTPUT, Pair, case, close

FAMILY = "crysxpp"


def test_the_mask_and_the_output(pair: Pair) -> None:
    original = case(pair)
    assert original.published.encoder["feature_selector"]
    for name in original.names:
        batch = original.batch(name)
        states = original.states(batch, {"masked_features": "selector"})
        close(states["masked_features"], original.vector(name, "masked_features"), **OUTPUT)
        close(original.output(batch), original.vector(name, "out"), **OUTPUT)
