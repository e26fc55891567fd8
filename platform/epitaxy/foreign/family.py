"""Which published model a set of weights belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from epitaxy.errors import CheckpointError, ConfigError, closest
from epitaxy.foreign.alignn import import_alignn
from epitaxy.foreign.cgcnn import import_cgcnn, import_crysgnn, import_crystal_twins
from epitaxy.foreign.gatgnn import import_gatgnn
from epitaxy.foreign.matdeeplearn import import_equivariant_transformer, import_mdl_cgcnn
from epitaxy.foreign.published import PublishedModel
from epitaxy.foreign.roost import import_roost

Importer = Callable[..., PublishedModel]

FAMILIES: dict[str, Importer] = {
    "alignn": import_alignn,
    "cgcnn": import_cgcnn,
    "cgcnn_mdl": import_mdl_cgcnn,
    "crysgnn": import_crysgnn,
    "crystal_twins": import_crystal_twins,
    "crysxpp": import_cgcnn,
    "gatgnn": import_gatgnn,
    "roost": import_roost,
    "torchmd_et": import_equivariant_transformer,
}

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
    if family == "auto":
        family = family_of(weights)
    if family not in FAMILIES:
        raise ConfigError(f"no family {family!r}; {closest(family, ('auto', *FAMILIES))}")
    return FAMILIES[family](weights, **settings)
