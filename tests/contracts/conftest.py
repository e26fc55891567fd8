"""Every encoder and objective that has a configuration, and what their contracts are tried on."""

from __future__ import annotations

from collections.abc import Sequence
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

CONF = Path(__file__).parents[2] / "platform/epitaxy/conf"
LABEL = "energy"
"""Stands in where a configuration leaves the label to the user (``???``)."""
LABELS = {"classification": "metallic"}
"""Stands in for the label of objectives that an energy does not suit."""
FIELDS = (
    LabelField("energy", "eV"),
    LabelField("forces", "eV/Å", (3,), per_atom=True),
    LabelField("stress", "eV/Å^3", (3, 3)),
    LabelField("metallic", ""),
)


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
        label = LABELS.get(path.stem, LABEL)
        found[path.stem] = {k: label if v == "???" else v for k, v in content.items()}
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test with ``encoder`` for each encoder, with ``pair`` for each pair that fits.

    Markers leave out those that do not promise what a test is about.
    """
    promise = metafunc.definition.get_closest_marker("invariance")
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
            if metafunc.definition.get_closest_marker("derivatives") is None
            or {"forces", "stress"} <= set(build(config).labels)
        }
        pairs = {
            f"{one}-{other}": (encoders[one], objectives[other])
            for one in encoders
            for other in objectives
            if fits(encoders[one], objectives[other])
        }
        metafunc.parametrize("pair", pairs.values(), ids=pairs.keys(), indirect=True)


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
    records: Sequence[CrystalRecord], specs: Sequence[GraphSpec], dtype: torch.dtype = torch.float64
) -> CrystalBatch:
    return collate(records, specs, FIELDS, dtype)


def label_table(records: Sequence[CrystalRecord]) -> LabelTable:
    def column(name: str, reduce: Any) -> np.ndarray:
        values = [r.labels[name].value if name in r.labels else np.nan for r in records]
        return np.array([float(reduce(value)) for value in values])

    composition = np.stack([np.bincount(r.numbers, minlength=119) for r in records])
    return LabelTable(
        num_atoms=composition.sum(1),
        composition=composition,
        scalars={name: column(name, float) for name in ("energy", "metallic")},
        root_mean_square={"forces": column("forces", lambda v: np.sqrt(np.square(v).mean()))},
        largest={n: column(n, lambda v: np.abs(v).max()) for n in ("forces", "stress")},
        units={field.name: field.unit for field in FIELDS},
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
    objective.fit(label_table(examples))
    model = prepared(Model(encoder, objective.heads(encoder)))
    specs = (encoder.spec, *objective.specs)
    return SimpleNamespace(
        model=model, objective=objective, specs=specs, objective_config=request.param[1]
    )


@pytest.fixture(scope="session")
def examples(crystals: Any) -> list[CrystalRecord]:
    """Labelled crystals without symmetry: one to six atoms, one flat and one sparse cell."""
    sparse = crystals.triclinic(11, 2, volume_per_atom=90.0)
    records = [crystals.triclinic(seed, count) for seed, count in enumerate((4, 6, 1, 3))]
    labelled = [crystals.labelled(record, seed) for seed, record in enumerate([*records, sparse])]
    return [
        record.replace(labels={**record.labels, "metallic": Label(np.array(seed % 2), "")})
        for seed, record in enumerate(labelled)
    ]


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
