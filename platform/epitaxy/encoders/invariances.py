"""Which symmetries an encoder keeps follows from its graph."""

from __future__ import annotations

from epitaxy.encoders.basis import EnvelopeName
from epitaxy.graph.spec import GraphSpec


def invariances_of(spec: GraphSpec, envelope: EnvelopeName) -> frozenset[str]:
    """Returns what holds for message passing on distances (and angles) of ``spec``'s edges.

    Where ties are cut the numbering of atoms decides, where images are lost the choice of cell
    does. A larger cell has other bonds between images of one atom, so those must not count twice
    (``repeats``) or lack an angle (``self_angles``).
    """
    held = {"rotation", "translation"}
    if spec.completes_shells:
        held.add("permutation")
        if spec.max_images is None and spec.rule != "minimum_image":
            held.add("unit_cell")
            if spec.repeats == "never" and spec.self_angles == spec.line_graph:
                held.add("supercell")
    unlimited = spec.rule == "radius" and spec.max_neighbors is None and spec.max_images is None
    if unlimited and envelope != "none":
        held.add("smooth_cutoff")
    return frozenset(held)
