"""From atomic numbers to features: fixed tables, or an embedding that is learnt."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.elements import (
    ElementTable,
    atom_features,
    check_table,
    is_installed,
    known_elements,
)
from epitaxy.graph.record import MAX_ATOMIC_NUMBER
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.shapes import AtomicNumbers, NodeFeatures


class ElementFeatures(nn.Module):
    """Looks up fixed element features: (atoms,) → (atoms, width); it has no parameters.

    An atom whose element a view hides (atomic number 0) has features 0.
    Tables that come with another package are saved with the weights, so a model that was trained
    on one can be used without that package.

    Args:
        table: Name of the table, see ``graph.elements.atom_features``.

    Raises:
        ConfigError: If there is no such table.
    """

    table: Tensor

    def __init__(self, table: ElementTable) -> None:
        super().__init__()
        check_table(table)
        self.name: ElementTable = table
        own = table != "matscholar200"
        self.register_buffer("table", torch.from_numpy(_with_gaps(table)), persistent=not own)
        self.width = self.table.shape[1]

    def forward(self, numbers: AtomicNumbers) -> NodeFeatures:
        """Returns the features of each atom.

        Raises:
            RecordError: If an element is not in the table (checked on CPU only; on a GPU its
                features are NaN, which stops training).
            ConfigError: If the table was neither installed nor in the model's weights.
        """
        features = self.table[numbers.long()]
        if features.device.type == "cpu":
            unknown = torch.isnan(features[:, 0])
            if bool(unknown.any()) and bool(torch.isnan(self.table).all()):
                atom_features(self.name)  # says which package is missing
            _refuse(numbers[unknown].tolist(), f"the table {self.name}")
        return features


class ElementEmbedding(nn.Embedding):
    """Learns a vector for each element: (atoms,) → (atoms, width); row = atomic number.

    Row 0 is learnt too, for atoms whose element a view hides.

    Args:
        num_elements: Rows; elements from this atomic number on are refused.
        width: Features of an element.
    """

    def __init__(self, num_elements: int, width: int) -> None:
        if not 1 < num_elements <= MAX_ATOMIC_NUMBER + 1:
            raise ConfigError(f"num_elements must be 2 … 119, got {num_elements}")
        super().__init__(num_elements, width)

    def forward(self, input: AtomicNumbers) -> NodeFeatures:
        """Returns the vector of each atom.

        Raises:
            RecordError: If an element has no row (checked on CPU only; NaN on a GPU).
        """
        beyond = input >= self.num_embeddings
        if input.device.type == "cpu":
            _refuse(input[beyond].tolist(), "its embedding")
            return functional.embedding(input, self.weight)
        rows = functional.embedding(input.clamp(max=self.num_embeddings - 1), self.weight)
        return rows.masked_fill(beyond.unsqueeze(-1), torch.nan)


def _with_gaps(name: ElementTable) -> np.ndarray:
    """Returns a table with NaN for elements without features."""
    if not is_installed(name):  # to be filled by the weights of a trained model
        return np.full((MAX_ATOMIC_NUMBER + 1, 200), np.nan, np.float32)
    features = atom_features(name)
    missing = sorted(set(range(1, len(features))) - known_elements(name))
    features[missing] = np.nan
    return features


def _refuse(unknown: Iterable[int], where: str) -> None:
    numbers = sorted(set(unknown))
    if numbers:
        named = ", ".join(f"{SYMBOLS[number]} (Z = {number})" for number in numbers)
        raise RecordError(
            f"the encoder has no features for {named}, because {where} does not hold them; leave "
            "out the records that contain them, or take another encoder"
        )
