"""From a composed configuration to a training run, and from its result to a registered model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import epitaxy
from epitaxy.app.components import check_components
from epitaxy.app.compose import Composed, to_yaml
from epitaxy.app.models import SourceModel, find_model, registry_of
from epitaxy.app.paths import set_absolute
from epitaxy.data.mixture import Data, Mixture, digests_of, members_of, open_data
from epitaxy.errors import ConfigError
from epitaxy.registry.contract import Version, check_name, settable
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.identity import RUN
from epitaxy.train.launch import launch
from epitaxy.train.settings import (
    InitSettings,
    RunSettings,
    TeacherSettings,
    from_dict,
    to_dict,
)

CONFIG_FILE, PUBLISHED_FILE = "config.yaml", "published.json"

_SECTIONS = ("seed", "split", "filter", "batch", "mix", "optimizer", "schedule", "loop", "compute")
_INPUTS = ("data", "split.file", "filter.exclude")
_OUTPUTS = ("home", "run.directory")
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


@dataclass(frozen=True)
class Trained:
    """What a training verb returns.

    Attributes:
        name: Of the run.
        directory: Of the run.
        model: Its final model folder.
        metrics: Of that model, on the validation split.
        history: Lines of ``metrics.jsonl``.
        resumed: Whether the run continued an earlier one.
        units: Units of the metrics.
        version: Where it was published, if it was.
    """

    name: str
    directory: Path
    model: Path
    metrics: Mapping[str, float]
    history: list[dict[str, Any]]
    resumed: bool
    units: Mapping[str, str]
    version: Version | None = None


def settings_of(composed: Composed) -> RunSettings:
    """Returns the typed settings of a training run, every path absolute and every name checked.

    Raises:
        ConfigError: If an option is missing or wrong.
        RegistryError: If the model to start from cannot be had.
    """
    config = composed.require()
    set_absolute(config, _INPUTS, _OUTPUTS)
    check_publication(config)
    if not composed.given & {"batch", "batch.graphs"} and _has_budget(config["batch"]):
        config["batch"]["graphs"] = None
    encoder, init = config["encoder"], InitSettings()
    if "finetune" in config:
        source = _source(composed)
        encoder = source.card["encoder"] if source else encoder
        init = _init(config["finetune"], source)
    teacher = _teacher(config)
    components = {"encoder": encoder, "objective": config["objective"]}
    check_components({**components, "finetune": init.strategy, "teacher": teacher.encoder})
    values = {
        "name": config["run"]["name"],
        "directory": config["run"]["directory"],
        "data": config["data"],
        "tracking": config["tracking"],
        **components,
        "init": to_dict(init),
        "teacher": to_dict(teacher),
        **{name: config[name] for name in _SECTIONS},
    }
    settings: RunSettings = from_dict(RunSettings, values)
    return settings


def train(composed: Composed, settings: RunSettings) -> Trained:
    """Runs ``settings``, keeps the resolved configuration with it, and publishes if asked to."""
    config, directory = composed.config, Path(settings.directory)
    resolved = {**config, "encoder": settings.encoder}
    if not (directory / CONFIG_FILE).exists():  # a refused resumption must not replace it
        save_config(directory, resolved)
    result = launch(settings)
    save_config(directory, resolved)
    version = None
    if config["publish"]:
        lineage = lineage_of(settings, directory, result.metrics)
        version = publish_once(config, directory, result.model, lineage)
    return Trained(
        settings.name,
        Path(result.directory),
        Path(result.model),
        result.metrics,
        result.history,
        result.resumed,
        read_json(directory / RUN)["units"],
        version,
    )


def publish_once(
    config: Mapping[str, Any], directory: Path, model: Path, lineage: Mapping[str, Any]
) -> Version:
    """Publishes ``model``, unless the run in ``directory`` has done so: resuming repeats commands.

    Aliases are moved in either case.
    """
    registry, name, path = registry_of(config), str(config["publish"]), directory / PUBLISHED_FILE
    known = read_json(path) if path.is_file() else {}
    if known.get("registry") != registry.uri or known.get("name") != name:
        version = registry.publish(model, name, aliases=config["alias"], lineage=lineage)
        write_json(path, {"registry": registry.uri, "name": name, "version": version.number})
        return version
    version = registry.resolve(f"{name}@{known['version']}")
    for alias in settable(config["alias"]):
        version = registry.set_alias(name, alias, version.number)
    return version


def save_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Writes the resolved configuration beside a run, without credentials in its URIs."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(_CREDENTIALS.sub("://", to_yaml(config)), encoding="utf-8")


def _origin_of(data: Data) -> dict[str, Any]:
    """Returns what a card says of the records; of several data sets, also of each."""
    manifests = [member.manifest for member in members_of(data)]

    def each(values: Iterable[Any]) -> str:
        return "; ".join(dict.fromkeys(str(value) for value in values if value))

    origin: dict[str, Any] = {
        "name": data.name,
        "digest": data.data_digest,
        "records": len(data),
        "recipe": each(manifest.recipe.get("name", "") for manifest in manifests),
        "source": each(manifest.source.get("uri", "") for manifest in manifests),
        "licence": each(manifest.licence for manifest in manifests),
        "citation": each(manifest.citation for manifest in manifests),
    }
    if isinstance(data, Mixture):
        origin["members"] = [_origin_of(member) for member in data.members]
    return origin


def lineage_of(
    settings: RunSettings, directory: Path, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Returns what the card of the model of the run in ``directory`` says of its origin."""
    run = read_json(directory / RUN)
    data = open_data(settings.data, digests_of(run["data"]))
    units = run["units"]
    return {
        "run": {"name": settings.name, "science_digest": run["science_digest"]},
        "plan": {"digest": run["plan_digest"]},
        "schemes": {field.name: field.scheme for field in data.fields.values()},
        "parent": dict(settings.init.lineage) or None,
        **({"teacher": dict(settings.teacher.lineage)} if settings.teacher.model else {}),
        "data": {**_origin_of(data), "split": to_dict(settings.split)},
        "metrics": {
            name: {"value": value, "unit": units.get(name, "")} for name, value in metrics.items()
        },
        "code": {"version": epitaxy.__version__},
    }


def check_publication(config: dict[str, Any]) -> None:
    """Finds a name that cannot be published before hours are spent on training."""
    if isinstance(config["alias"], str):
        config["alias"] = [config["alias"]]
    if config["publish"]:
        check_name(str(config["publish"]))
        settable(config["alias"])
        registry_of(config)
    elif config["alias"]:
        raise ConfigError("alias= is set, but publish=NAME is not: nothing would be published")


def _has_budget(batch: Mapping[str, Any]) -> bool:
    return batch["edges"] is not None or batch["atoms"] is not None


def _source(composed: Composed) -> SourceModel | None:
    named = composed.config["from"]
    scratch = str(composed.config["finetune"].get("_target_", "")).endswith(".scratch.Scratch")
    if named is None:
        if not scratch:
            raise ConfigError(
                f"finetune={composed.choices['finetune']} needs a model to start from: give "
                "from=NAME@ALIAS or from=FOLDER, or choose finetune=scratch"
            )
        return None
    changed = sorted(key for key in composed.given if key.split(".")[0] == "encoder")
    if changed:
        raise ConfigError(
            f"{changed[0]} cannot be set beside from=: the encoder is the one of {named}; leave "
            "out one of the two (without from=, finetune=scratch trains any encoder)"
        )
    return find_model(str(named), composed.config, composed.config["trust"])


def _init(strategy: Mapping[str, Any], source: SourceModel | None) -> InitSettings:
    """Returns how to start; ``scratch`` takes the encoder of a source, but none of its weights."""
    if source is None or str(strategy["_target_"]).endswith(".scratch.Scratch"):
        return InitSettings(strategy=strategy)
    lineage = {**source.identity, "strategy": strategy["_target_"]}
    return InitSettings(str(source.folder), strategy, lineage)


def _teacher(config: Mapping[str, Any]) -> TeacherSettings:
    """Returns the teacher that the configuration names, if any."""
    if config["teacher"] is None:
        return TeacherSettings()
    found = find_model(str(config["teacher"]), config, config["trust"])
    return TeacherSettings(str(found.folder), found.card["encoder"], found.identity)
