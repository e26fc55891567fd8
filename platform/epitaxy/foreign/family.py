"""Which published model a set of weights belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from epitaxy.errors import CheckpointError, ConfigError, closest
from epitaxy.foreign import cgcnn, gatgnn, matdeeplearn
from epitaxy.foreign.alignn import import_alignn
from epitaxy.foreign.published import PublishedModel
from epitaxy.foreign.roost import import_roost

Importer = Callable[..., PublishedModel]

FAMILIES: dict[str, Importer] = {
    "alignn": import_alignn,
    "cgcnn": cgcnn.import_cgcnn,
    "cgcnn_mdl": matdeeplearn.import_mdl_cgcnn,
    "crysgnn": cgcnn.import_crysgnn,
    "crystal_twins": cgcnn.import_crystal_twins,
    "crysxpp": cgcnn.import_cgcnn,
    "gatgnn": gatgnn.import_gatgnn,
    "roost": import_roost,
    "torchmd_et": matdeeplearn.import_equivariant_transformer,
}

GRAPH_SETTINGS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("cgcnn", "crysgnn", "crystal_twins", "crysxpp"), cgcnn.INPUT),
    **dict.fromkeys(("cgcnn_mdl", "torchmd_et"), matdeeplearn.INPUT),
    "gatgnn": gatgnn.INPUT,
}
"""What each importer takes as ``graph``, with the values it takes otherwise."""

STANDARDISED = frozenset({"cgcnn", "crysxpp", "crystal_twins", "roost"})
"""Families whose code always standardises the labels of a regression."""

TWO_CLASSES = frozenset({"cgcnn", "crysxpp", "crystal_twins", "gatgnn"})
"""Families in which a head with two outputs can only be a classifier's."""

_SIGNS = (
    # (family, pattern of a name that only it has), most telling first
    ("alignn", r"alignn_layers\..*"),
    ("gatgnn", r"node_att\..*"),
    ("roost", r"material_nn\..*"),
    ("torchmd_et", r"attention_layers\..*"),
    ("cgcnn_mdl", r"conv_list\..*\.lin_f\..*"),
    ("crystal_twins", r"fc_head\..*|fc_out\.2\..*"),
    ("crysgnn", r"fc_adj\..*"),
    ("crysxpp", r"mask"),
    ("cgcnn", r"convs\..*"),
)


def family_of(weights: Mapping[str, Tensor]) -> str:
    """Returns the family that parameter names tell.

    Raises:
        CheckpointError: If they tell none.
    """
    for family, pattern in _SIGNS:
        if any(re.fullmatch(pattern, name) for name in weights):
            return family
    some = ", ".join(sorted(weights)[:4]) or "nothing"
    raise CheckpointError(
        f"the parameters ({some}, …) are of no model that can be imported; those are "
        f"{', '.join(FAMILIES)}"
    )


def import_weights(
    weights: Mapping[str, Tensor], family: str = "auto", **settings: Any
) -> PublishedModel:
    """Returns the model in this project's terms.

    Args:
        weights: Parameters under the authors' names.
        family: One of ``FAMILIES``, or ``auto`` to tell by the names.
        **settings: Passed on, see the family's importer.

    Raises:
        ConfigError: If there is no such family.
        CheckpointError: If a name or shape is foreign to the family.
    """
    return FAMILIES[chosen_family(weights, family)](weights, **settings)


def chosen_family(weights: Mapping[str, Tensor], family: str) -> str:
    """Returns the family that is meant, told by the names if it is ``auto``.

    Raises:
        ConfigError: If there is no such family.
        CheckpointError: If the names tell none.
    """
    if family == "auto":
        return family_of(weights)
    if family not in FAMILIES:
        raise ConfigError(f"no family {family!r}; {closest(family, ('auto', *FAMILIES))}")
    return family
