"""Parts that do not fit are refused with all parties named and a way out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from epitaxy.errors import NeedsError
from epitaxy.finetune.last_layer import LastLayer
from epitaxy.graph.record import AMOUNT, LabelField
from epitaxy.train.needs import check_needs
from epitaxy.train.parts import Parts, build_parts
from epitaxy.train.settings import BatchSettings, ComputeSettings, FilterSettings, RunSettings

ENCODER = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "width": 4, "layers": 1, "cutoff": 4.0}
NEAREST = {**ENCODER, "rule": "nearest", "max_neighbors": 12}
FORCES = {"_target_": "epitaxy.objectives.energy_force_stress.EnergyForceStress", "hidden": [4]}
GAP = {"_target_": "epitaxy.objectives.regression.Regression", "label": "gap", "hidden": [4]}
FIELDS = {
    "energy": LabelField("energy", "eV"),
    "forces": LabelField("forces", "eV/Å", (3,), per_atom=True),
    "stress": LabelField("stress", "eV/Å^3", (3, 3)),
    "gap": LabelField("gap", "eV"),
}


def settings(encoder: dict[str, Any], objective: dict[str, Any], **changes: Any) -> RunSettings:
    made = RunSettings("run", "/nowhere", "/data/steels", encoder, objective)
    return dataclasses.replace(made, **changes)


def check(made: RunSettings, fields: dict[str, LabelField] = FIELDS) -> None:
    parts: Parts = build_parts(made)
    check_needs(made, fields, parts.model.encoder, parts.objective, parts.report)


def on_workers(count: int) -> ComputeSettings:
    return ComputeSettings(backend="ray", workers=count)


def test_what_fits_passes() -> None:
    check(settings(ENCODER, FORCES, compute=on_workers(4), batch=BatchSettings(micro_batches=3)))
    check(settings(NEAREST, GAP))
    check(settings({**ENCODER, "norm": "sync_batch"}, GAP, compute=on_workers(4)))
    check(settings({**ENCODER, "norm": "batch"}, GAP))


def test_missing_label_names_all_parties() -> None:
    fields = {"energy": FIELDS["energy"], "force": FIELDS["forces"], "stress": FIELDS["stress"]}
    with pytest.raises(NeedsError) as caught:
        check(settings(ENCODER, FORCES), fields)
    message = str(caught.value)
    for part in ("EnergyForceStress", "'forces'", "/data/steels", "did you mean 'force'"):
        assert part in message


def test_missing_provision_offers_an_encoder() -> None:
    with pytest.raises(NeedsError) as caught:
        check(settings(NEAREST, FORCES))
    message = str(caught.value)
    for part in ("EnergyForceStress asks for position_grad", "CGCNN", " or cgcnn or ", "would do"):
        assert part in message


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_forces_refuse_coupled_records(norm: str) -> None:
    with pytest.raises(NeedsError, match=r"encoder\.norm=layer or none"):
        check(settings({**ENCODER, "norm": norm}, FORCES))
    check(settings({**ENCODER, "norm": norm}, {**FORCES, "allow_coupling": True}))


def test_batch_norm_on_several_workers() -> None:
    with pytest.raises(NeedsError, match=r"compute\.workers=2.*norm=sync_batch"):
        check(settings({**ENCODER, "norm": "batch"}, GAP, compute=on_workers(2)))


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_coupling_norm_in_micro_batches(norm: str) -> None:
    batch = BatchSettings(micro_batches=2)
    with pytest.raises(NeedsError, match=r"set batch\.micro_batches=1"):
        check(settings({**ENCODER, "norm": norm}, GAP, batch=batch))


def test_frozen_norm_couples_nothing() -> None:
    made = settings({**ENCODER, "norm": "batch"}, GAP, compute=on_workers(2))
    parts = build_parts(made)
    source = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    for frozen_norm, fits in (("eval", True), ("batch", False)):
        report = LastLayer(frozen_norm=frozen_norm).apply(parts.model, source)  # type: ignore[arg-type]
        arguments = (made, FIELDS, parts.model.encoder, parts.objective, report)
        if fits:
            check_needs(*arguments)
        else:
            with pytest.raises(NeedsError):
                check_needs(*arguments)


def test_an_objective_may_refuse_compositions() -> None:
    made = settings({"_target_": "epitaxy.encoders.roost.Roost", "features": "cgcnn92"}, GAP)
    parts = build_parts(made)
    fields = {"gap": FIELDS["gap"], AMOUNT: LabelField(AMOUNT, "", per_atom=True)}
    arguments = (made, fields, parts.model.encoder, parts.objective, parts.report)
    check_needs(*arguments)
    parts.objective.needs_structures = True
    with pytest.raises(NeedsError, match=r"Regression asks for structures.*filter.structures=true"):
        check_needs(*arguments)
    left_out = dataclasses.replace(made, filter=FilterSettings(structures=True))
    check_needs(left_out, *arguments[1:])


def test_compositions_are_no_structures() -> None:
    fields = {"gap": FIELDS["gap"], AMOUNT: LabelField(AMOUNT, "", per_atom=True)}
    with pytest.raises(NeedsError, match=r"CGCNN asks for structures.*/data/steels.*compositions"):
        check(settings(ENCODER, GAP), fields)
