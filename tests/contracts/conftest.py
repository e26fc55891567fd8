"""Every encoder and objective that has a configuration, and what their contracts are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from epitaxy.build import build
from epitaxy.data.recipe import load_recipe
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import CrystalRecord, Label, LabelField
from epitaxy.graph.spec import GraphSpec
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import BaseObjective

CONF = Path(__file__).parents[2] / "platform/epitaxy/conf"
LABEL = "energy"
"""Stands in where a configuration leaves the label to the user (``???``)."""
LABELS: dict[str, Any] = {
    "classification": "metallic",
    "layer_transfer": ["energy", "metallic"],
    "multi_property": ["energy", "metallic"],
}
"""Stands in for the label of objectives that an energy does not suit."""
PARTS = {
    "energies": {"objective": {"_target_": "epitaxy.objectives.regression.Regression"}},
    "classes": {"objective": {"_target_": "epitaxy.objectives.classification.Classification"}},
}
PARTS["energies"]["objective"]["label"] = "energy"
PARTS["classes"]["objective"]["label"] = "metallic"
FREE: dict[str, dict[str, Any]] = {"combined": {"parts": PARTS}}
"""Arguments that a configuration leaves to the user altogether."""
FIELDS = (
    LabelField("energy", "eV"),
    LabelField("forces", "eV/Å", (3,), per_atom=True),
    LabelField("stress", "eV/Å^3", (3, 3)),
    LabelField("metallic", ""),
    LabelField("space_group", ""),
    LabelField("crystal_system", ""),
    LabelField("magpie", "", (145,)),
)
EVERY_ENCODER = frozenset({"energy_force_stress", "regression"})
"""Objectives whose contract is tried with every encoder …"""
SOME_ENCODERS = ("alignn", "cgcnn", "cgcnn_paper", "crystal_twins", "roost", "torchmd_et")
"""… and with which encoders that of the others: states, vectors, angles, crystal vectors, norms."""


SMALLER: dict[str, dict[str, Any]] = {
    "alignn_paper": {"width": 32, "embedding_width": 16},
    "cgcnn_mdl_paper": {"width": 32},
    "roost_paper": {"gate": [32], "message": [32], "trunk": [64, 32]},
    "tensornet_paper": {"width": 16},
    "torchmd_et_paper": {"width": 32, "layers": 3},
}
"""Sizes of encoders that would take minutes otherwise; what they do stays the same."""


def configurations(group: str) -> dict[str, dict[str, Any]]:
    """Name to content of every YAML file of a group."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        content = yaml.safe_load(path.read_text("utf-8")) | SMALLER.get(path.stem, {})
        content |= FREE.get(path.stem, {})
        label = LABELS.get(path.stem, LABEL)
        found[path.stem] = {k: label if v == "???" else v for k, v in content.items()}
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with ``encoder`` for each encoder, with ``pair`` for each pair that fits.

    Markers leave out those that do not promise what a test is about.
    """
    wants = metafunc.definition.get_closest_marker
    promise = wants("invariance")
    encoders = {
        name: config
        for name, config in configurations("encoder").items()
        if promise is None or promise.args[0] in build(config).invariances
    }
    if "encoder" in metafunc.fixturenames:
        metafunc.parametrize("encoder", encoders.values(), ids=encoders.keys(), indirect=True)
    if "pair" in metafunc.fixturenames:
        objectives = {
            name: config
            for name, config in configurations("objective").items()
            if (wants("derivatives") is None or {"forces", "stress"} <= set(build(config).labels))
            and (wants("predicts") is None or predicts(build(config)))
        }
        pairs = {
            f"{one}-{other}": (encoders[one], objectives[other])
            for one in encoders
            for other in objectives
            if other in EVERY_ENCODER or one in SOME_ENCODERS
            if fits(encoders[one], objectives[other])
        }
        metafunc.parametrize("pair", pairs.values(), ids=pairs.keys(), indirect=True)
    if "pair_in_matrix" in metafunc.fixturenames:
        cells = {name: pair for name, pair in every_pair().items() if fits(*pair)}
        marks = {name: [pytest.mark.slow] for name in cells if is_slow(name)}
        values = [pytest.param(p, id=n, marks=marks.get(n, [])) for n, p in cells.items()]
        metafunc.parametrize("pair_in_matrix", values, indirect=True)
    if "refused_pair" in metafunc.fixturenames:
        cells = {name: pair for name, pair in every_pair().items() if not fits(*pair)}
        metafunc.parametrize("refused_pair", cells.values(), ids=cells.keys())


@cache
def every_pair() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Every encoder with every objective, by both names."""
    encoders, objectives = configurations("encoder"), configurations("objective")
    return {
        f"{one}-{other}": (encoders[one], objectives[other])
        for one in encoders
        for other in objectives
    }


def is_slow(pair: str) -> bool:
    """Whether a cell of the matrix is left to `make slow`: most presets of papers."""
    encoder = pair.partition("-")[0]
    return encoder.endswith("_paper") and encoder not in SOME_ENCODERS


def predicts(objective: Any) -> bool:
    """Whether it predicts labels of the data set."""
    return type(objective).predict is not BaseObjective.predict and bool(objective.labels)


def fits(encoder_config: dict[str, Any], objective_config: dict[str, Any]) -> bool:
    encoder, objective = build(encoder_config), build(objective_config)
    coupled = encoder.couples_records and objective.forbids_coupling
    return objective.requires <= encoder.provides and not coupled


def prepared(module: Any) -> Any:
    """``module`` in fp64 and eval mode with batch statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return module.double().eval()


def to_batch(
    records: Sequence[CrystalRecord],
    specs: Sequence[GraphSpec],
    dtype: torch.dtype = torch.float64,
    made: Sequence[LabelField] = (),
) -> CrystalBatch:
    return collate(records, specs, (*FIELDS, *made), dtype)


def label_table(records: Sequence[CrystalRecord]) -> LabelTable:
    def column(name: str, reduce: Any) -> np.ndarray:
        values = [r.labels[name].value if name in r.labels else np.nan for r in records]
        return np.array([float(reduce(value)) for value in values])

    composition = np.stack([np.bincount(r.numbers, minlength=119) for r in records])
    vectors = [
        r.labels["magpie"].value if "magpie" in r.labels else [np.nan] * 145 for r in records
    ]
    return LabelTable(
        num_atoms=composition.sum(1),
        composition=composition,
        scalars={
            name: column(name, float)
            for name in ("energy", "metallic", "space_group", "crystal_system")
        },
        root_mean_square={"forces": column("forces", lambda v: np.sqrt(np.square(v).mean()))},
        largest={n: column(n, lambda v: np.abs(v).max()) for n in ("forces", "stress")},
        units={field.name: field.unit for field in FIELDS},
        tensors={"magpie": np.array(vectors)},
    )


@pytest.fixture
def encoder(request: pytest.FixtureRequest) -> Any:
    """An encoder as its configuration says, in fp64."""
    torch.manual_seed(0)
    return prepared(build(request.param))


@pytest.fixture
def pair(request: pytest.FixtureRequest, examples: list[CrystalRecord]) -> SimpleNamespace:
    """``model``, ``objective`` (fitted) and ``specs``, as two configurations say, in fp64."""
    torch.manual_seed(0)
    encoder, objective = (build(config) for config in request.param)
    give_teacher(objective)
    objective.fit(label_table(examples))
    model = prepared(Model(encoder, objective.heads(encoder)))
    specs = (encoder.spec, *objective.specs)
    return SimpleNamespace(
        model=model, objective=objective, specs=specs, objective_config=request.param[1]
    )


@pytest.fixture
def pair_in_matrix(request: pytest.FixtureRequest) -> Any:
    """Makes model and objective, fitted to a table of labels, in a precision."""

    def make(table: LabelTable, dtype: torch.dtype) -> tuple[Model, Any]:
        torch.manual_seed(0)
        encoder, objective = (build(config) for config in request.param)
        give_teacher(objective, dtype)
        objective.fit(table)
        return Model(encoder, objective.heads(encoder)).to(dtype), objective

    return make


@pytest.fixture(scope="session")
def all_pairs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Configurations of every encoder and every objective."""
    return list(every_pair().values())


def give_teacher(objective: Any, dtype: torch.dtype = torch.float64) -> None:
    """Lets an objective that learns from a teacher have one."""
    if objective.needs_teacher:
        teacher = prepared(build(configurations("encoder")["cgcnn"])).to(dtype)
        objective.receive(teacher.requires_grad_(False))


@pytest.fixture(scope="session")
def examples(crystals: Any) -> list[CrystalRecord]:
    """Labelled crystals without symmetry: one to six atoms, one flat and one sparse cell."""
    sparse = crystals.triclinic(11, 2, volume_per_atom=90.0)
    records = [crystals.triclinic(seed, count) for seed, count in enumerate((4, 6, 1, 3))]
    labelled = [crystals.labelled(record, seed) for seed, record in enumerate([*records, sparse])]
    return [with_labels(record, seed) for seed, record in enumerate(labelled)]


def with_labels(record: CrystalRecord, seed: int) -> CrystalRecord:
    """``record`` with the labels that no energy goes with."""
    more = {
        "metallic": seed % 2,
        "space_group": 1 + 7 * seed,
        "crystal_system": seed % 3,
        "magpie": np.random.default_rng(seed).random(145),
    }
    labels = {name: Label(np.array(value), "") for name, value in more.items()}
    return record.replace(labels={**record.labels, **labels})


@pytest.fixture(scope="session")
def label() -> Any:
    """Adds the labels that no energy goes with."""
    return with_labels


@pytest.fixture(scope="session")
def real_crystals(data_dir: Path) -> list[CrystalRecord]:
    """Of a table of the Materials Project, the first crystal of each size from 1 to 8 atoms."""
    source = load_recipe("mp_csv").open_source()
    found: dict[int, CrystalRecord] = {}
    for record in source.read(str(data_dir / "small/mp_2000.csv.gz")):
        if isinstance(record, CrystalRecord) and record.num_atoms <= 8:
            found.setdefault(record.num_atoms, record)
        if len(found) == 8:
            break
    return [found[size] for size in sorted(found)]


@pytest.fixture(scope="session")
def batch_of() -> Any:
    """``collate`` of records with all labels, fp64 by default."""
    return to_batch


@pytest.fixture(scope="session")
def table_of() -> Any:
    """The columns of records that objectives fit their statistics on."""
    return label_table
