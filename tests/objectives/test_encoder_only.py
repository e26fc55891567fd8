from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epitaxy.errors import NeedsError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.objectives.encoder_only import EncoderOnly


def test_it_is_an_objective_that_claims_nothing(encoder: Any, crystals: Any, batch_of: Any) -> None:
    objective = EncoderOnly()
    assert isinstance(objective, Objective)
    assert (objective.labels, dict(objective.units), objective.heads(encoder)) == ((), {}, {})
    record = crystals.triclinic()
    assert objective.views(record, np.random.default_rng(0)) == (record,)
    batch = batch_of([record], ())
    assert objective.counts((batch,)) == {}
    model = Model(encoder, {})
    with pytest.raises(NeedsError, match="without a head and cannot predict; train a head"):
        objective.predict(model, batch)
    with pytest.raises(NeedsError, match="cannot be trained"):
        objective.terms(model, (batch,))


def test_its_statistics_are_empty(crystals: Any, table_of: Any) -> None:
    objective = EncoderOnly()
    statistics = objective.fit(table_of([crystals.triclinic()], ()))
    objective.adopt(statistics)
    assert statistics == {}
