"""mace-torch: ``AtomicData.from_config``, as its on-the-fly data sets do, and its ``Batch``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mace.data import AtomicData
from mace.data.utils import KeySpecification, config_from_atoms
from mace.tools.torch_geometric.batch import Batch
from mace.tools.utils import AtomicNumberTable

from peers.frames import CUTOFF, Frames


def configurations(frames: Frames, folder: Path) -> Callable[[list[int]], int]:
    """From its configurations in memory."""
    table = AtomicNumberTable(list(range(1, 101)))
    keys = KeySpecification(info_keys={"energy": "E", "stress": "S"}, arrays_keys={"forces": "F"})
    configs = []
    for atoms in frames.ase():
        atoms.info["E"], atoms.info["S"] = atoms.calc.results["energy"], atoms.get_stress()
        atoms.arrays["F"] = atoms.get_forces()
        configs.append(config_from_atoms(atoms, keys))

    def batch_of(rows: list[int]) -> int:
        made = [AtomicData.from_config(configs[row], table, CUTOFF) for row in rows]
        return int(Batch.from_data_list(made).edge_index.shape[1])

    return batch_of


VARIANTS = {"configurations": configurations}
