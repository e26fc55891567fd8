"""Rules of ``filter.*`` that need more than a number of each record: its material, its labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from epitaxy.data.dataset import Dataset, Statistic
from epitaxy.data.derived import derivable
from epitaxy.data.mixture import Data, members_of
from epitaxy.errors import ConfigError, closest
from epitaxy.graph.record import AMOUNT

RECORD_RULES: Mapping[str, Any] = {"frames": "all", "structures": False, "labelled": None}
"""The rules, each with the value at which it leaves nothing out."""

ANY = "any"
"""``filter.labelled=any``: any label but those that every record can have (``derivable``)."""

_FRAMES: Mapping[str, str] = {
    "last": "not the last frame of its group",
    "lowest_energy": "not the frame of lowest energy in its group",
}

logger = logging.getLogger(__name__)


def lost_records(data: Data, rules: Mapping[str, Any]) -> dict[str, Bool[np.ndarray, " records"]]:
    """Returns which records each rule leaves out, by its name for people.

    Args:
        data: The prepared data.
        rules: ``frames``: which frames of a group (the material) stay. ``structures``: whether
            only records with a structure do. ``labelled``: labels, or ``any``, of which a record
            must have at least one.

    Raises:
        ConfigError: If a rule is unknown, or needs a label that the data set lacks.
    """
    lost: dict[str, Bool[np.ndarray, " records"]] = {}
    frames = rules["frames"] or "all"
    if frames != "all":
        if frames not in _FRAMES:
            raise ConfigError(f"filter.frames is {frames!r}; {closest(frames, ('all', *_FRAMES))}")
        kept = np.concatenate([one_per_group(member, frames) for member in members_of(data)])
        lost[_FRAMES[frames]] = ~kept
    if rules["structures"]:
        lost["no structure"] = _present(data, AMOUNT)
    if rules["labelled"]:
        names = _label_names(data, rules["labelled"])
        labelled = np.zeros(len(data), dtype=bool)
        for name in names:
            labelled |= _present(data, name)
        lost[f"none of the labels {', '.join(names)}"] = ~labelled
    return lost


def one_per_group(dataset: Dataset, frames: str) -> Bool[np.ndarray, " records"]:
    """Returns which record of each group stays: exactly one.

    ``last`` is the last in the order of storage, which is that of the source. ``lowest_energy`` is
    the one with the lowest energy per atom; the later of two that are equal, and one without an
    energy only where none of its group has one.

    Raises:
        ConfigError: If energies are needed and the data set has none.
    """
    keys = dataset.group_names.keys()
    energy = _energy_per_atom(dataset) if frames == "lowest_energy" else np.zeros(len(dataset))
    # By group, then by energy, then from the last record to the first.
    order = np.lexsort((-np.arange(len(keys)), energy, keys))
    ordered = keys[order]
    first = np.append(True, ordered[1:] != ordered[:-1])
    kept = np.zeros(len(keys), dtype=bool)
    kept[order[first]] = True
    if frames == "last":
        _check_downhill(dataset, kept, keys)
    if kept.all() and len(kept) > 1:
        logger.warning(
            "filter.frames=%s leaves nothing out of %s: every record is a group of its own. If it "
            "holds several frames of a material, prepare it with a recipe that says group: …",
            frames, dataset.location,
        )  # fmt: skip
    return kept


def _check_downhill(dataset: Dataset, last: Bool[np.ndarray, " records"], keys: np.ndarray) -> None:
    """Says so if the last frames look like first ones: a relaxation ends below where it starts."""
    energy = dataset.statistic("scalar", "energy")
    if energy is None:
        return
    _, first, number_of, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    ends = np.empty(len(counts), dtype=np.int64)
    ends[number_of[last]] = np.flatnonzero(last)
    several = counts > 1
    per_atom = energy / dataset.num_atoms
    rise = (per_atom[ends] - per_atom[first])[several]
    uphill, compared = int((rise > 0).sum()), int(np.isfinite(rise).sum())
    if 2 * uphill > compared:
        logger.warning(
            "filter.frames=last: in %d of %d groups of %s the last frame lies above the first in "
            "energy. If its frames are stored from the end to the start, filter.frames="
            "lowest_energy finds the relaxed ones",
            uphill, compared, dataset.location,
        )  # fmt: skip


def _energy_per_atom(dataset: Dataset) -> Float64[np.ndarray, " records"]:
    """Returns the energy per atom in eV, infinite where missing."""
    energy = dataset.statistic("scalar", "energy")
    if energy is None:
        raise ConfigError(
            f"filter.frames=lowest_energy needs the label 'energy', which {dataset.location} lacks "
            f"({closest('energy', dataset.fields)}); filter.frames=last needs none"
        )
    return np.where(np.isnan(energy), np.inf, energy / dataset.num_atoms)


def _label_names(data: Data, asked: str | Sequence[str]) -> list[str]:
    known = [name for name in data.fields if name != AMOUNT]
    if asked == ANY:
        return [name for name in known if name not in derivable()]
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"filter.labelled names the label {name!r}, which {data.location} lacks; "
                f"{closest(name, (*known, ANY))}"
            )
    return names


def _present(data: Data, label: str) -> Bool[np.ndarray, " records"]:
    """Returns which records have a label."""
    present = np.zeros(len(data), dtype=bool)
    statistics: tuple[Statistic, ...] = ("scalar", "largest")
    for statistic in statistics:
        values = data.statistic(statistic, label)
        if values is not None:
            present |= ~np.isnan(values)
    return present
