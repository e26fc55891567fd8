"""Composition: defaults in one place, overrides, user groups, and errors that name the remedy."""

import pytest
import yaml

from epitaxy.app.compose import compose, every_option, to_yaml
from epitaxy.errors import ConfigError
from epitaxy.train import settings

VERBS = (
    *("prepare", "pretrain", "finetune", "evaluate", "explain"),
    *("encoders", "objectives", "registry", "sweep", "report"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_and_says_what_is_missing(verb):
    composed = compose(verb)
    assert yaml.safe_load(to_yaml(composed.config)) == composed.config


def test_defaults_are_those_of_the_settings():
    config = compose("pretrain").config
    run = settings.RunSettings("r", "/runs/r", "/data/d", {}, {})
    for name in ("split", "filter", "batch", "optimizer", "schedule", "loop"):
        assert config[name] == settings.to_dict(getattr(run, name))
    local = compose("pretrain", ["compute=local"]).config["compute"]
    assert local == settings.to_dict(settings.ComputeSettings(backend="local", stream="direct"))


def test_overrides_apply_to_groups_values_and_lists():
    composed = compose(
        "pretrain",
        ["encoder=cgcnn_paper", "encoder.width=16", "filter={max_force: 50}", "run.name=a"],
    )
    config = composed.config
    assert composed.choices["encoder"] == "cgcnn_paper"
    assert (config["encoder"]["max_neighbors"], config["encoder"]["width"]) == (12, 16)
    assert config["filter"]["max_force"] == 50
    assert config["filter"]["max_atoms"] is None
    assert composed.given == {"encoder", "encoder.width", "filter", "run.name"}


def test_home_places_runs_and_registry(epitaxy_home, tmp_path, monkeypatch):
    config = compose("pretrain", ["run.name=a"]).config
    assert config["run"]["directory"] == f"{epitaxy_home}/runs/a"
    assert config["registry"]["uri"] == f"sqlite:///{epitaxy_home}/registry/mlflow.db"
    monkeypatch.chdir(tmp_path)
    config = compose("pretrain", ["run.name=a", "home=here"]).config
    assert config["run"]["directory"] == f"{tmp_path}/here/runs/a"
    monkeypatch.setenv("EPITAXY_REGISTRY", "/mnt/models")
    assert compose("registry").config["registry"]["uri"] == "/mnt/models"


@pytest.mark.parametrize(
    ("verb", "override", "message"),
    [
        ("pretrain", "encoder=cgcn", "no encoder 'cgcn'; did you mean 'cgcnn'"),
        ("pretrain", "compute=Ray", "no compute 'Ray'; did you mean 'ray'. Known: local, ray"),
        ("pretrain", "loop.epoch=3", "unknown option 'loop.epoch'; did you mean 'loop.epochs'"),
        ("pretrain", "epochs=3", "did you mean 'loop.epochs'"),
        ("pretrain", "filter={max_froce: 3}", "did you mean 'filter.max_force'"),
        ("pretrain", "encoder.widht=3", "takes no argument 'widht'; did you mean 'width'"),
        ("pretrain", "finetune=full", "unknown option 'finetune'"),
        ("finetune", "finetune=fulll", "no finetune 'fulll'; did you mean 'full'"),
        ("prepare", "formt=zarr", "did you mean 'format'"),
        ("pretrain", "seed=${nowhere}", "nowhere"),
    ],
)
def test_typing_errors_get_the_closest_name(verb, override, message):
    with pytest.raises(ConfigError, match=message):
        compose(verb, [override])


def test_missing_values_are_named():
    with pytest.raises(ConfigError, match=r"data=… is missing"):
        compose("pretrain").require()
    with pytest.raises(ConfigError, match=r"objective\.label=… is missing"):
        compose("finetune", ["data=x", "run.name=a"]).require()
    assert compose("finetune", ["data=x", "run.name=a", "objective.label=gap"]).require()


def test_mappings_by_label_take_any_label():
    """In place of null or of one name for all; nothing else takes keys that no YAML names."""
    chosen = ["objective=regression", "objective.label=[gap,modulus]"]
    by_label = ["objective.weights={gap: 2}", "objective.normalizer={gap: zscore, modulus: log10}"]
    objective = compose("pretrain", chosen + by_label).config["objective"]
    assert objective["weights"] == {"gap": 2}
    assert objective["normalizer"] == {"gap": "zscore", "modulus": "log10"}
    with pytest.raises(ConfigError, match=r"unknown option 'objective\.hidden\.gap'"):
        compose("pretrain", [*chosen, "objective.hidden={gap: 2}"])
    with pytest.raises(ConfigError, match="did you mean 'weights'"):
        compose("pretrain", [*chosen, "objective.wieghts={gap: 2}"])


def test_an_argument_that_the_yaml_leaves_out_needs_no_plus(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "short.yaml").write_text(
        "# mine\n_target_: epitaxy.encoders.cgcnn.CGCNN\nwidth: 4\n"
    )
    composed = compose("pretrain", ["encoder=short", "encoder.layers=2"], [str(tmp_path)])

    assert composed.config["encoder"] == {
        "_target_": "epitaxy.encoders.cgcnn.CGCNN",
        "width": 4,
        "layers": 2,
    }
    assert "short" in composed.options["encoder"]
    with pytest.raises(ConfigError, match="no encoder 'short'"):
        compose("pretrain", ["encoder=short"])
    with pytest.raises(ConfigError, match="is no folder"):
        compose("pretrain", [], [str(tmp_path / "nowhere")])


def test_every_option_of_a_group_with_those_of_the_user(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [cgcnn, _self_]\nwidth: 7\n")
    found = every_option("encoder", [str(tmp_path)])
    assert {"cgcnn", "mine"} <= set(found)
    assert found["mine"] == {**found["cgcnn"], "width": 7}
    assert list(every_option("encoder", [str(tmp_path)], ["mine", "cgcnn"])) == ["mine", "cgcnn"]
    with pytest.raises(ConfigError, match="no encoder 'mime'; did you mean 'mine'"):
        every_option("encoder", [str(tmp_path)], ["mime"])
    (folder / "broken.yaml").write_text("width: [1\n")
    with pytest.raises(ConfigError, match="encoder=broken"):
        every_option("encoder", [str(tmp_path)], ["broken"])
