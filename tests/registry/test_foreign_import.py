"""Published checkpoints become model folders that predict what they predicted."""

from __future__ import annotations

import gzip
import json
import tarfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import published_weights as made
import pytest
import torch
from pymatgen.core import Structure
from torch import Tensor

from epitaxy.build import build
from epitaxy.errors import CheckpointError, ConfigError, NeedsError, SourceError
from epitaxy.foreign.checkpoint import read_checkpoint
from epitaxy.foreign.family import import_weights
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord, LabelField
from epitaxy.heads.model import Model
from epitaxy.heads.scalar import ScalarHead, head_input
from epitaxy.objectives.barlow_twins import BarlowTwins
from epitaxy.predict.predictor import Predictor
from epitaxy.registry.foreign_import import ImportedModel, import_foreign
from epitaxy.train.checkpoint import load_model
from epitaxy.train.folders import read_json

LABEL = "formation_energy_per_atom"
ENERGY = {"label": LABEL, "unit": "eV/atom"}
NORMALIZER = {"mean": -1.5, "std": 0.5}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., ImportedModel]:
    """Saves a checkpoint and imports it into ``folder``."""

    def make(content: Mapping[str, Any], folder: str = "model", **options: Any) -> ImportedModel:
        torch.save(dict(content), tmp_path / "published.pth.tar")
        return import_foreign(tmp_path / "published.pth.tar", tmp_path / folder, **options)

    return make


def raw_outputs(
    weights: Mapping[str, Tensor], records: list[CrystalRecord], **settings: Any
) -> np.ndarray:
    """What encoder and head of the published model give, without any objective."""
    published = import_weights(weights, **settings)
    encoder = build(published.encoder)
    _, width = head_input(encoder, published.head["order"])
    model = Model(encoder, {"scalar": ScalarHead(width, **published.head)})
    model.load_state_dict(published.state)
    batch = collate(records, [encoder.spec])
    with torch.no_grad():
        return model.eval().head["scalar"](model.encoder(batch), batch).numpy()


@pytest.fixture(scope="module")
def records(crystals: Any) -> list[CrystalRecord]:
    return [crystals.rocksalt(), crystals.triclinic(1), crystals.perovskite()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_published_cgcnn_predicts_what_it_predicted(
    data_dir: Path, reference_dir: Path, tmp_path: Path
) -> None:
    file = data_dir / "checkpoints/cgcnn_formation-energy-per-atom.pth.tar"
    found = import_foreign(file, tmp_path / "cgcnn", **ENERGY)
    assert (found.family, found.task, found.units) == ("CGCNN", "regression", {LABEL: "eV/atom"})
    given = dict(np.load(reference_dir / "cgcnn/inputs.npz"))
    vectors = dict(np.load(reference_dir / "cgcnn/formation-energy-per-atom.vectors.npz"))
    names = sorted({key.split("/")[0] for key in given if key.endswith("/tie_at_cut")})
    unambiguous = [name for name in names if not given[f"{name}/tie_at_cut"].any()]
    structures = [
        CrystalRecord(
            name,
            given[f"{name}/Z"],
            given[f"{name}/frac"] @ given[f"{name}/lattice"],
            given[f"{name}/lattice"],
        )
        for name in unambiguous
    ]
    predicted = Predictor(tmp_path / "cgcnn").predict(structures)[LABEL]
    expected = [float(vectors[f"{name}/prediction"].item()) for name in unambiguous]
    assert len(expected) >= 4
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


def test_the_published_crysxpp_knows_formation_energies(data_dir: Path, tmp_path: Path) -> None:
    """Real energies of crystals of its training distribution, eV/atom."""
    file = data_dir / "checkpoints/crysxpp_model_best.pth.tar"
    found = import_foreign(file, tmp_path / "crysxpp", **ENERGY)
    assert found.family == "CrysXPP"
    structures, energies = crysxpp_crystals(data_dir)
    predicted = Predictor(tmp_path / "crysxpp").predict(structures)[LABEL]
    error = np.abs(predicted - energies).mean()
    assert error < 0.3
    assert error < 0.3 * np.abs(energies - energies.mean()).mean()


def crysxpp_crystals(data_dir: Path) -> tuple[list[CrystalRecord], np.ndarray]:
    """Those with up to 20 atoms of 200 crystals, and their energies."""
    structures, energies = [], []
    with tarfile.open(data_dir / "importers/cif_dir_crysxpp_200.tar.gz") as archive:
        files = {Path(name).name: name for name in archive.getnames()}

        def text(name: str) -> str:
            stream = archive.extractfile(files[name])
            assert stream is not None
            return stream.read().decode()

        for line in text("id_prop.csv").splitlines():
            name, energy = line.split(",")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pymatgen says what it rounds
                crystal = Structure.from_str(text(f"{name}.cif"), fmt="cif")
            if len(crystal) <= 20:
                cell = crystal.lattice.matrix
                numbers = np.array(crystal.atomic_numbers)
                structures.append(CrystalRecord(name, numbers, crystal.cart_coords, cell))
                energies.append(float(energy))
    assert len(structures) > 50
    return structures, np.array(energies)


def test_crystal_twins_keeps_its_projector_and_claims_no_prediction(
    data_dir: Path, tmp_path: Path, records: list[CrystalRecord]
) -> None:
    file = data_dir / "checkpoints/crystal_twins_barlow.pth"
    found = import_foreign(file, tmp_path / "twins")
    assert (found.task, found.units, found.left_out) == ("none", {}, {})
    assert "objective=barlow_twins" in found.notes[-1]
    card = read_json(tmp_path / "twins" / "model.json")
    assert "predicts nothing until `epitaxy finetune" in card["notes"]
    assert card["units"] == {}
    model, objective, _ = load_model(tmp_path / "twins")
    encoding = model.encoder(collate(records, [model.encoder.spec]))
    assert encoding.graph.shape == (3, 128)
    assert isinstance(objective, BarlowTwins)
    weights = read_checkpoint(str(file)).weights
    first, last = ((weights[f"fc_head.{n}.weight"], weights[f"fc_head.{n}.bias"]) for n in (0, 2))
    hidden = torch.nn.functional.softplus(encoding.graph @ first[0].T + first[1])
    projected = model.head["projector"](encoding.graph)
    torch.testing.assert_close(projected, hidden @ last[0].T + last[1])
    assert projected.shape == (3, 256)
    assert bool(encoding.graph.isfinite().all())
    with pytest.raises(
        NeedsError, match=r"predicts no label; train a head .* epitaxy finetune from="
    ):
        Predictor(tmp_path / "twins").predict(records)


def test_a_classifier_gives_the_probability_of_class_1(
    imported: Any, records: list[CrystalRecord]
) -> None:
    weights = made.drawn(made.cgcnn(outputs=2, counted=True))
    args = {"task": "classification", "radius": 8, "max_num_nbr": 12}
    content = {"state_dict": weights, "args": args, "normalizer": {"mean": 0.0, "std": 1.0}}
    found = imported(content, label="metal")
    assert (found.task, found.units) == ("classification", {"metal": ""})
    predictor = Predictor(found.folder)
    assert predictor.objective.dropout == 0.5
    logits = raw_outputs(weights, records)
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(predictor.predict(records)["metal"], expected, rtol=1e-5)


def test_more_classes_give_a_probability_each(imported: Any, records: list[CrystalRecord]) -> None:
    weights = made.drawn(made.cgcnn(outputs=4))
    with pytest.raises(CheckpointError, match=r"4 outputs; .*options=\{task: classification\}"):
        imported(weights, label="kind")
    found = imported(weights, label="kind", options={"task": "classification"})
    predicted = Predictor(found.folder).predict(records)["kind"]
    assert predicted.shape == (3, 4)
    np.testing.assert_allclose(predicted.sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        (made.cgcnn(more=1), {}),  # n_h = 2, without num_batches_tracked, as PyTorch 0.3 wrote it
        (made.cgcnn(more=1, counted=True), {}),
        (made.cgcnn(mask=True), {}),
        (made.crystal_twins(outputs=1), {}),
        (made.gatgnn(), {}),
        (made.alignn(), {}),
        (made.cgcnn_mdl(), {}),
        (made.torchmd_et(), {"heads": 4}),
    ],
)
def test_predictions_are_restored_outputs(
    imported: Any, records: list[CrystalRecord], shapes: made.Shapes, settings: dict[str, Any]
) -> None:
    weights = made.drawn(shapes)
    content = {"state_dict": weights, "normalizer": NORMALIZER}
    found = imported(content, **ENERGY, options=settings)
    predicted = Predictor(found.folder).predict(records)[LABEL]
    expected = raw_outputs(weights, records, **settings) * 0.5 - 1.5
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)


def test_a_fine_tuned_crystal_twins_may_be_a_classifier(
    imported: Any, records: list[CrystalRecord]
) -> None:
    weights = made.drawn(made.crystal_twins(outputs=2))
    found = imported(weights, label="metal")
    logits = raw_outputs(weights, records)
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(
        Predictor(found.folder).predict(records)["metal"], expected, rtol=1e-5
    )


def test_compositions_are_read_by_roost(imported: Any, crystals: Any) -> None:
    pytest.importorskip("matminer")
    given = {"state_dict": made.drawn(made.roost(outputs=2)), "normalizer_dict": {"e": NORMALIZER}}
    with pytest.raises(CheckpointError, match=r"options=\{robust: true\}"):
        imported(given, **ENERGY)
    found = imported({**given, "model_params": {"robust": True}}, **ENERGY)
    assert not found.left_out
    predictor = Predictor(found.folder)
    assert predictor.units == {LABEL: "eV/atom", f"{LABEL}_std": "eV/atom"}
    table = predictor._model.encoder.features.table
    assert not bool(table[1].isnan().any())  # hydrogen: saved with the weights
    composed = [crystals.rocksalt(), crystals.perovskite()]
    predicted = predictor.predict(composed)
    batch = collate(composed, [predictor.encoder.spec])
    model = predictor._model
    with torch.no_grad():
        outputs = model.head["scalar"](model.encoder(batch), batch)
    mean, log_std = outputs.double().numpy().T
    np.testing.assert_allclose(predicted[LABEL], mean * 0.5 - 1.5, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predicted[f"{LABEL}_std"], np.exp(log_std) * 0.5, rtol=1e-5)


def test_parallel_training_normalizers_and_repetition_change_nothing(
    imported: Any, tmp_path: Path
) -> None:
    weights = made.drawn(made.cgcnn())
    plain = imported({"state_dict": weights, "normalizer": NORMALIZER}, "plain", **ENERGY)
    before = contents(plain.folder)
    again = imported({"state_dict": weights, "normalizer": NORMALIZER}, "plain", **ENERGY)
    assert contents(again.folder) == before
    tensors = {name: torch.tensor([value]) for name, value in NORMALIZER.items()}
    parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
    other = imported({"state_dict": parallel, "normalizer": tensors}, "other", **ENERGY)
    assert contents(other.folder)["model.safetensors"] == before["model.safetensors"]
    first, second = (json.loads(contents(f.folder)["model.json"]) for f in (again, other))
    assert first["statistics"] == second["statistics"]
    with gzip.open(tmp_path / "packed.pth.gz", "wb") as stream:
        stream.write((tmp_path / "published.pth.tar").read_bytes())
    packed = import_foreign(tmp_path / "packed.pth.gz", tmp_path / "packed", **ENERGY)
    assert contents(packed.folder)["model.safetensors"] == before["model.safetensors"]


def test_the_graph_is_that_of_the_file_unless_told_otherwise(imported: Any) -> None:
    content = {
        "state_dict": made.drawn(made.cgcnn(gaussians=31)),
        "normalizer": NORMALIZER,
        "args": {"radius": 6.0, "max_num_nbr": 8, "dmin": 0, "step": 0.2},
    }
    found = imported(content, **ENERGY)
    encoder = read_json(found.folder / "model.json")["encoder"]
    assert (encoder["cutoff"], encoder["max_neighbors"], encoder["num_basis"]) == (6.0, 8, 31)
    assert "Graph: radius 6.0, max_neighbors 8, dmin 0, step 0.2." in found.notes
    found = imported(content, **ENERGY, options={"max_neighbors": 10})
    assert read_json(found.folder / "model.json")["encoder"]["max_neighbors"] == 10
    with pytest.raises(CheckpointError, match=r"radius is 8 Å.*options=\{radius: 6\}"):
        imported({**content, "args": {}}, **ENERGY)


def test_without_a_normalizer_standardised_labels_are_refused(
    imported: Any, records: list[CrystalRecord]
) -> None:
    weights = made.drawn(made.cgcnn())
    with pytest.raises(
        ConfigError, match=r"no normalizer, but CGCNN .*options=\{mean: …, std: …\}"
    ):
        imported(weights, **ENERGY)
    with pytest.raises(ConfigError, match="belong together"):
        imported(weights, **ENERGY, options={"mean": 1.0})
    found = imported(weights, **ENERGY, options={"mean": 1.0, "std": 2.0})
    predicted = Predictor(found.folder).predict(records)[LABEL]
    np.testing.assert_allclose(predicted, raw_outputs(weights, records) * 2 + 1, rtol=1e-5)
    raw = imported(made.drawn(made.gatgnn()), **ENERGY)  # its authors do not standardise energies
    assert "The file holds no normalizer: outputs are taken as they are." in raw.notes
    assert read_json(raw.folder / "model.json")["objective"]["normalizer"] == "none"


def test_label_and_unit_are_asked_for(imported: Any, caplog: Any) -> None:
    content = {"state_dict": made.drawn(made.cgcnn()), "normalizer": NORMALIZER}
    with pytest.raises(ConfigError, match="label=… must say what it predicts"):
        imported(content)
    with pytest.raises(ConfigError, match="unit=… must say in which unit CGCNN predicts 'gap'"):
        imported(content, label="gap")
    assert imported(content, label="force", unit="eV/A").units == {"force": "eV/Å"}
    with pytest.raises(ConfigError, match="probabilities, which have no unit"):
        imported(made.drawn(made.cgcnn(outputs=2)), label="metal", unit="eV")
    imported(made.drawn(made.crysgnn()), label="gap", unit="eV")
    assert "label=gap and unit=eV have no meaning: the file holds no head" in caplog.text


@pytest.mark.parametrize("space_groups", [True, False], ids=["crysgnn", "crysxpp"])
def test_an_auto_encoder_goes_on_as_its_authors_trained_it(
    imported: Any, records: list[CrystalRecord], space_groups: bool
) -> None:
    weights = made.drawn(made.crysgnn(space_groups=space_groups))
    found = imported(weights)
    assert (found.task, found.units, found.left_out) == ("none", {}, {})
    model, objective, _ = load_model(found.folder)
    shares = (0.25, 0.25, 0.25, 0.25) if space_groups else (0.1, 0.9)
    assert tuple(objective.weights.values()) == shares
    assert objective.reduction == ("step" if space_groups else "per_crystal")
    assert objective.graph.padded
    assert torch.equal(model.head["connectivity"].bilinear.weight, weights["fc_adj.weight"])
    assert torch.equal(model.head["features"].out.bias, weights["fc_atom_feature.bias"])
    assert ("space_group" in model.head) == space_groups
    fields = [LabelField(name, "") for name in objective.labels]
    batch = collate(records, [model.encoder.spec, *objective.specs], fields)
    terms = objective.terms(model, (batch,))
    assert float(terms["connectivity"].total.detach()) > 0
    with pytest.raises(NeedsError, match="CrysGNN trains an encoder and predicts no label"):
        Predictor(found.folder).predict(records)


def test_an_auto_encoder_without_decoders_is_an_encoder(imported: Any) -> None:
    whole = made.drawn(made.crysgnn())
    encoder = {n: t for n, t in whole.items() if n.startswith(("embedding", "convs"))}
    found = imported(encoder, family="crysgnn")
    assert read_json(found.folder / "model.json")["objective"]["_target_"].endswith("EncoderOnly")
    with pytest.raises(CheckpointError, match=r"not those of a whole CrysGNN.*head\.features"):
        imported({**encoder, "fc_adj.weight": whole["fc_adj.weight"]})


def test_one_output_is_no_classifier(imported: Any) -> None:
    content = {"state_dict": made.drawn(made.cgcnn()), "args": {"task": "classification"}}
    with pytest.raises(CheckpointError, match="one output, but a classifier has one for each"):
        imported(content, label="metal")


def test_precision_is_kept(imported: Any) -> None:
    weights = made.drawn(made.crysgnn())
    double = {n: t.double() if t.is_floating_point() else t for n, t in weights.items()}
    half = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    for given, precision in ((weights, "fp32"), (double, "fp64"), (half, "fp32")):
        found = imported(given)
        assert read_json(found.folder / "model.json")["precision"] == precision
        state = load_model(found.folder)[0].state_dict()
        expected = given["embedding.weight"].double()
        assert torch.equal(state["encoder.embedding.weight"].double(), expected)


def test_what_cannot_be_imported_writes_nothing(imported: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="of no model that can be imported; those are alignn"):
        imported({"layer1.0.weight": torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="'extra' is no parameter of the published CGCNN"):
        imported({**made.drawn(made.cgcnn()), "extra": torch.zeros(3)}, **ENERGY)
    partial = made.drawn(made.cgcnn(counted=True))
    del partial["convs.0.bn1.weight"]
    with pytest.raises(CheckpointError, match=r"not those of a whole CGCNN.*edge_norm\.weight"):
        imported({"state_dict": partial, "normalizer": NORMALIZER}, **ENERGY)
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "published.pth.tar").read_bytes()[:999])
    with pytest.raises(SourceError, match=r"damaged\.pth"):
        import_foreign(tmp_path / "damaged.pth", tmp_path / "model", **ENERGY)
    assert not (tmp_path / "model").exists()


def test_only_an_earlier_import_is_replaced(imported: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is no earlier import; choose another out="):
        imported(made.drawn(made.crysgnn()))
    assert (tmp_path / "model" / "mine.txt").read_text() == "precious"
