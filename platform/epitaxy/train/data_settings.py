"""What a training run reads: the split, what is left out, the size of a step, the mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from epitaxy.errors import ConfigError


def at_least(least: int, name: str, value: float) -> None:
    """Refuses a setting below ``least``.

    Raises:
        ConfigError: Naming the setting.
    """
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class SplitSettings:
    """How records are dealt to ``train``, ``val`` and ``test``; a pure function of ids.

    Attributes:
        by: What stays together: ``group`` (the material that the recipe names), ``formula``,
            ``chemical_system``, ``structure`` (duplicates), ``record`` (nothing); ``time`` deals
            the earliest to train and the latest to test.
        fractions: Shares of train, val, test; they need not use everything up.
        sizes: Numbers of records instead of fractions: exact by ``record``; by any other rule the
            number at which a unit no longer starts.
        seed: Of the hash that orders what stays together.
        time: Scalar label that dates records for by=time, such as year.
        file: Lists of ids that replace the rule: JSON ``{"train": [ids], …}``, MatBench folds, a
            table with columns id and split, or a folder with train.txt, val.txt and test.txt.
        fold: Fold of a file that holds several.
        task: Task of a file that holds several, such as matbench_phonons.
        val_fraction: Share of a fold's training part that becomes val, if the fold names none.
        missing: Whether ids of the file that the data set lacks are an ``error``, or counted and
            left out (``skip``).
        name: Split stored with the data set, which replaces the rule.
    """

    by: Literal["group", "record", "formula", "chemical_system", "structure", "time"] = "group"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    sizes: tuple[int, int, int] | None = None
    seed: int = 0
    time: str | None = None
    file: str | None = None
    fold: int | None = None
    task: str | None = None
    val_fraction: float = 0.1
    missing: Literal["error", "skip"] = "error"
    name: str | None = None


@dataclass(frozen=True)
class FilterSettings:
    """Records left out of training and validation, counted and reported rule by rule.

    Attributes:
        max_atoms: Largest number of atoms.
        max_force: Largest absolute force component, eV/Å.
        max_stress: Largest absolute stress component, eV/Å³.
        exclude: File with one record id per line, or a list of such files.
        max_atomic_number: Highest atomic number.
        frames: Which records of a group (material) stay: ``all``, the ``last`` as stored, or that
            of ``lowest_energy`` per atom.
        structures: Whether compositions, which have no structure, are left out.
        labelled: Labels of which a record must have at least one; ``any`` for any label.
    """

    max_atoms: int | None = None
    max_force: float | None = None
    max_stress: float | None = None
    exclude: str | tuple[str, ...] | None = None
    max_atomic_number: int | None = None
    frames: Literal["all", "last", "lowest_energy"] = "all"
    structures: bool = False
    labelled: str | tuple[str, ...] | None = None


@dataclass(frozen=True)
class BatchSettings:
    """Size of a step over all workers, and how records come together in it.

    Attributes:
        graphs: Structures per step.
        edges: Budget of directed edges instead: as many structures as fit.
        atoms: Budget of atoms instead.
        micro_batches: Parts in which a worker computes its share of a step.
        oversize: What happens to a structure that exceeds the budget by itself: a step of its own
            (``alone``), no start (``error``), or left out and counted (``skip``).
        shuffle: ``records`` permutes all of them; ``blocks`` keeps together what compressed or
            remote shards store together.
        window: Blocks of 256 structures that are shuffled together.
    """

    graphs: int | None = 128
    edges: int | None = None
    atoms: int | None = None
    micro_batches: int = 1
    oversize: Literal["alone", "error", "skip"] = "alone"
    shuffle: Literal["records", "blocks"] = "records"
    window: int = 16

    def __post_init__(self) -> None:
        at_least(1, "batch.micro_batches", self.micro_batches)
        at_least(1, "batch.window", self.window)


@dataclass(frozen=True)
class MixSettings:
    """How several data sets share an epoch of training.

    Attributes:
        weights: Share of an epoch that each gets, in the order of ``data``, in proportion; without
            weights every record comes once.
        records: Length of an epoch with weights; by default as many as there are records.
    """

    weights: tuple[float, ...] | None = None
    records: int | None = None
