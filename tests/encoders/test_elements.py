from __future__ import annotations

import numpy as np
import pytest
import torch

from epitaxy.encoders import elements
from epitaxy.encoders.elements import ElementEmbedding, ElementFeatures
from epitaxy.errors import ConfigError, RecordError
from epitaxy.graph.elements import atom_features


@pytest.mark.parametrize(("name", "last"), [("cgcnn92", 100), ("onehot100", 100)])
def test_tables_are_looked_up_by_atomic_number(name: str, last: int) -> None:
    table = ElementFeatures(name)
    numbers = torch.tensor([1, 26, last])
    np.testing.assert_array_equal(table(numbers).numpy(), atom_features(name)[[1, 26, last]])
    with pytest.raises(RecordError, match=rf"Md \(Z = {last + 1}\).*table {name}"):
        table(torch.tensor([last + 1, 1]))
    assert not table.state_dict()


def test_a_learned_table_travels_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = ElementFeatures("matscholar200")
    state = trained.state_dict()
    assert state["table"].shape == (119, 200)
    monkeypatch.setattr(elements, "is_installed", lambda name: False)
    monkeypatch.setattr("epitaxy.graph.elements._learned_file", lambda name: None)
    monkeypatch.setattr("epitaxy.graph.elements._read", _uncached)
    elsewhere = ElementFeatures("matscholar200")
    with pytest.raises(ConfigError, match=r"pip install 'epitaxy\[composition\]'"):
        elsewhere(torch.tensor([26]))
    elsewhere.load_state_dict(state)
    assert torch.equal(elsewhere(torch.tensor([26])), trained(torch.tensor([26])))


def _uncached(name: str) -> object:
    from epitaxy.graph.elements import _learned

    return _learned(name)


def test_embeddings_refuse_elements_beyond_their_rows() -> None:
    embedding = ElementEmbedding(10, 4)
    assert torch.equal(embedding(torch.tensor([9])), embedding.weight[[9]])
    with pytest.raises(RecordError, match=r"Ne \(Z = 10\).*its embedding"):
        embedding(torch.tensor([1, 10]))
    with pytest.raises(ConfigError, match=r"2 … 119, got 200"):
        ElementEmbedding(200, 4)
