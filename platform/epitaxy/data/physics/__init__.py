"""Physics that labels must obey: proof of their units, signs and order, or its absence."""

from epitaxy.data.physics.book import PhysicsBook
from epitaxy.data.physics.check import Check

__all__ = ["Check", "PhysicsBook"]
