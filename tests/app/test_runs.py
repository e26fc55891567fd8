"""From configurations to runs: encoders of sources, trust, lineage, publication once."""

import json
from pathlib import Path

import pytest
import yaml

from epitaxy.app import api
from epitaxy.app.compose import compose
from epitaxy.app.models import find_model
from epitaxy.app.runs import save_config, settings_of
from epitaxy.errors import ConfigError, RegistryError
from epitaxy.train.folders import write_folder


@pytest.fixture
def teacher(tmp_path) -> Path:
    """A model folder with an encoder of width 7; only its JSON is read here."""
    encoder = yaml.safe_load(
        Path(api.__file__).parents[1].joinpath("conf/encoder/cgcnn.yaml").read_text()
    )
    card = {"encoder": encoder | {"width": 7}, "objective": {}, "units": {"energy": "eV"}}

    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "model.json").write_text(json.dumps(card))

    write_folder(tmp_path / "teacher", fill)
    return tmp_path / "teacher"


@pytest.fixture
def registry_uri(tmp_path) -> str:
    return str(tmp_path / "models")


def settings(*overrides: str, verb: str = "finetune"):
    base = ["data=d", "run.name=r", *(["objective.label=energy"] if verb == "finetune" else [])]
    return settings_of(compose(verb, [*base, *overrides]))


def test_paths_are_absolute_and_budgets_replace_the_count(tmp_path, monkeypatch, epitaxy_home):
    monkeypatch.chdir(tmp_path)
    run = settings("batch.edges=5000", "split.file=s.json", verb="pretrain")
    assert (run.data, run.split.file) == (f"{tmp_path}/d", f"{tmp_path}/s.json")
    assert run.directory == f"{epitaxy_home}/runs/r"
    assert (run.batch.graphs, run.batch.edges) == (None, 5000)
    assert settings("batch.graphs=4", verb="pretrain").batch.graphs == 4


def test_wrong_types_are_refused(epitaxy_home):
    with pytest.raises(ConfigError, match=r"loop\.epochs must be of type int"):
        settings("loop.epochs=many", verb="pretrain")
    with pytest.raises(ConfigError, match="alias= is set, but publish"):
        settings("alias=best", verb="pretrain")
    with pytest.raises(RegistryError, match="use letters"):
        settings("publish=a/b", verb="pretrain")


@pytest.mark.parametrize("strategy", ["full", "last_layer", "scratch"])
def test_the_source_gives_the_encoder(teacher, registry_uri, epitaxy_home, strategy):
    version = api.publish(teacher, "t", f"registry.uri={registry_uri}", alias="best")

    run = settings("from=t@best", f"finetune={strategy}", f"registry.uri={registry_uri}")

    assert run.encoder["width"] == 7
    if strategy == "scratch":
        assert run.init.model is None
        assert run.init.lineage == {}
    else:
        assert run.init.model == f"{epitaxy_home}/cache/models/t-1-{version.digest[:12]}"
        assert run.init.lineage["reference"] == "t@1"
        assert run.init.lineage["digest"] == version.digest


def test_a_folder_is_a_source_too(teacher, epitaxy_home):
    run = settings(f"from={teacher}")
    assert run.init.model == str(teacher)
    assert set(run.init.lineage) == {"weights", "strategy"}


def test_source_and_encoder_exclude_each_other(teacher, epitaxy_home):
    with pytest.raises(ConfigError, match=r"encoder\.width cannot be set beside from="):
        settings(f"from={teacher}", "encoder.width=3")
    with pytest.raises(ConfigError, match="finetune=full needs a model to start from"):
        settings()
    assert settings("finetune=scratch", "encoder.width=3").encoder["width"] == 3


def test_foreign_code_in_a_source_is_refused(teacher, epitaxy_home):
    card = json.loads((teacher / "model.json").read_text())
    card["encoder"] = {"_target_": "subprocess.run", "args": "true"}
    (teacher / "model.json").write_text(json.dumps(card))

    with pytest.raises(RegistryError, match=r"'subprocess\.run', which is not trusted"):
        settings(f"from={teacher}")
    with pytest.raises(ConfigError, match=r"takes no argument|needs the argument"):
        settings(f"from={teacher}", "trust=[subprocess.]", "objective.labels=x")


def test_a_teacher_is_found_like_a_source(teacher, registry_uri, epitaxy_home):
    version = api.publish(teacher, "t", f"registry.uri={registry_uri}", alias="best")
    chosen = ("objective=multimodal", "encoder=roost", f"registry.uri={registry_uri}")

    run = settings("teacher=t@best", *chosen, verb="pretrain")
    assert run.teacher.model == f"{epitaxy_home}/cache/models/t-1-{version.digest[:12]}"
    assert run.teacher.encoder["width"] == 7
    assert run.teacher.lineage["reference"] == "t@1"
    assert run.teacher.lineage["digest"] == version.digest
    assert "Roost" in run.encoder["_target_"]

    folder = settings(f"teacher={teacher}", *chosen, verb="pretrain")
    assert folder.teacher.lineage == {"weights": run.teacher.lineage["weights"]}
    assert settings(*chosen, verb="pretrain").teacher.model is None


def test_foreign_code_in_a_teacher_is_refused(teacher, epitaxy_home):
    card = json.loads((teacher / "model.json").read_text())
    card["encoder"] = {"_target_": "subprocess.run", "args": "true"}
    (teacher / "model.json").write_text(json.dumps(card))

    with pytest.raises(RegistryError, match=r"'subprocess\.run', which is not trusted"):
        settings(f"teacher={teacher}", verb="pretrain")


def test_a_pulled_source_is_kept_and_a_wrong_one_named(teacher, registry_uri, epitaxy_home):
    config = compose("evaluate", [f"registry.uri={registry_uri}"]).config
    api.publish(teacher, "t", f"registry.uri={registry_uri}")
    first = find_model("t", config)
    mark = first.folder / "mark"
    mark.touch()
    assert find_model("t@1", config).folder == first.folder
    assert mark.exists()
    with pytest.raises(RegistryError, match="no model folder"):
        find_model("some/where", config)


def test_saved_configurations_hold_no_credentials(tmp_path):
    save_config(tmp_path, {"registry": {"uri": "postgresql://me:secret@host/db"}})
    text = (tmp_path / "config.yaml").read_text()
    assert yaml.safe_load(text) == {"registry": {"uri": "postgresql://host/db"}}


def test_registry_actions(teacher, registry_uri, epitaxy_home, tmp_path):
    at = f"registry.uri={registry_uri}"
    api.publish(teacher, "t", at)
    api.publish(teacher, "t", at, alias=["best", "good"])
    assert [v.reference for v in api.registry("list", at)] == ["t@1", "t@2"]
    assert api.registry("alias", at, model="t@1", alias="best").aliases == ("best",)
    assert api.registry("verify", at, model="t@best").number == 1
    assert "| energy | eV |" in api.registry("show", at, model="t")
    assert api.pull("t@best", tmp_path / "copy", at) == tmp_path / "copy"
    with pytest.raises(ConfigError, match="registry publish needs name="):
        api.registry("publish", at, folder=str(teacher))
    with pytest.raises(ConfigError, match="needs alias="):
        api.registry("alias", at, model="t@1")
