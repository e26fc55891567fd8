"""Orders in which files list the six components of a stress, and how one is mistaken for another.

A 3×3 label says what its recipe declared. If the file follows another order, its slots hold
components that belong elsewhere; the true tensor is the label with its slots permuted.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Float64

SLOTS = ("xx", "yy", "zz", "yz", "xz", "xy")
_ROW, _COLUMN = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)

_SHEAR = [(0, 1, 2, *(3 + i for i in order)) for order in permutations(range(3))]
# A file in the order xx, xy, xz, yy, yz, zz (rows of the upper triangle), read as if the normal
# components came first: its second to sixth number stand in yy, zz and the three shear slots.
_TRIANGLE = [
    (0, shear[0], shear[2], shear[1], 2, 1)
    for shear in ([3 + i for i in order] for order in permutations(range(3)))
]
ORDERS: tuple[tuple[int, ...], ...] = (*_SHEAR, *_TRIANGLE)
"""For each possible order: the slot of the label that holds xx, yy, zz, yz, xz and xy; the first
is the declared one."""


def reorder(
    stress: Float64[np.ndarray, "frames 3 3"],
) -> Float64[np.ndarray, "frames orders 3 3"]:
    """Returns what each tensor is if its label is in each of ``ORDERS``."""
    listed = stress[:, _ROW, _COLUMN]
    full = np.empty((len(stress), len(ORDERS), 3, 3))
    for index, order in enumerate(ORDERS):
        full[:, index, _ROW, _COLUMN] = full[:, index, _COLUMN, _ROW] = listed[:, order]
    return full


def describe(order: int) -> str:
    """Returns which slots of the label hold other components, for people."""
    moved = [
        (SLOTS[slot], SLOTS[component])
        for component, slot in enumerate(ORDERS[order])
        if slot != component
    ]
    slots, held = ", ".join(a for a, _ in moved), ", ".join(b for _, b in moved)
    return f"the numbers declared as {slots} behave like {held}"
