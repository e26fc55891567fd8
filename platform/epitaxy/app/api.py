"""The verbs as Python functions; the command line and ``jobs/`` call the same ones.

Every function takes overrides as on the command line (``"loop.epochs=10"``) and the same options
as keywords: ``pretrain(data="frames", run={"name": "teacher"}, encoder="cgcnn")``; ``from_``
stands for the reserved word.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epitaxy.app.compose import Composed, compose
from epitaxy.app.overrides import render
from epitaxy.app.paths import absolute, absolute_output, set_absolute
from epitaxy.app.readers import readers, source_uri
from epitaxy.errors import ConfigError, SourceError, closest

if TYPE_CHECKING:
    from epitaxy.app.encoder_table import EncoderRow
    from epitaxy.app.evaluation import Evaluated
    from epitaxy.app.explanation import ModelExplanation
    from epitaxy.app.objective_table import ObjectiveRow
    from epitaxy.app.runs import Trained
    from epitaxy.app.sweeping import Swept
    from epitaxy.data.manifest import Manifest
    from epitaxy.registry.contract import Version

logger = logging.getLogger(__name__)

REGISTRY_ACTIONS = ("list", "show", "publish", "pull", "alias", "verify", "import-foreign")


def prepare(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Manifest:
    """Writes a data set from source files; see ``epitaxy prepare --help``.

    Returns:
        The manifest of the data set.
    """
    from epitaxy.data.convert import prepare as convert
    from epitaxy.data.recipe import load_recipe
    from epitaxy.data.remote import is_uri

    config = _compose("prepare", overrides, options, config_dirs).require()
    source = config["source"]
    uri = source_uri(source)
    out = absolute_output(str(config["out"]), "out")
    try:
        with readers(config) as workers:
            manifest = convert(
                uri,
                out,
                format=config["format"],
                recipe=load_recipe(str(config["recipe"])),
                on_error=config["on_error"],
                checks=config["checks"],
                symmetry=bool(config["symmetry"]),
                fingerprint=config["fingerprint"],
                workers=workers,
                backend=config["compute"],
                overwrite=bool(config["overwrite"]),
                resume=bool(config["resume"]),
            )
    except SourceError as error:
        if source is not None:
            raise
        raise ConfigError(f"source=… is missing: recipe {config['recipe']} reads files") from error
    if config["card"] and not is_uri(out):
        from epitaxy.report.card import write_card

        write_card(out, Path(out) / "card.html")
    return manifest


def data(action: str, *overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Any:
    """Runs one action on data sets or source files; see ``epitaxy data --help``.

    Returns:
        What the action found or wrote: a survey or manifest, statistics, paths, a report.
    """
    from epitaxy.app.data_verbs import run

    return run(action, [*overrides, *render(options)], config_dirs).value


def pretrain(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Trained:
    """Trains an encoder; see ``epitaxy pretrain --help``. The same call resumes a stopped run."""
    from epitaxy.app.runs import settings_of, train

    composed = _compose("pretrain", overrides, options, config_dirs)
    return train(composed, settings_of(composed))


def finetune(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Trained:
    """Trains a property model from a teacher or from scratch; see ``epitaxy finetune --help``."""
    from epitaxy.app.runs import settings_of, train

    composed = _compose("finetune", overrides, options, config_dirs)
    return train(composed, settings_of(composed))


def evaluate(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Evaluated:
    """Measures a model on a split; see ``epitaxy evaluate --help``."""
    from epitaxy.app.evaluation import run_evaluation

    return run_evaluation(_compose("evaluate", overrides, options, config_dirs).require())


def explain(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> ModelExplanation:
    """Shows what a model weighs in some structures; see ``epitaxy explain --help``."""
    from epitaxy.app.explanation import run_explanation

    config = _compose("explain", overrides, options, config_dirs).require()
    return run_explanation(config, config_dirs)


def encoders(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> list[EncoderRow]:
    """Lists every encoder with what it reads and costs; see ``epitaxy encoders --help``."""
    from epitaxy.app.encoder_table import list_encoders

    return list_encoders(
        _compose("encoders", overrides, options, config_dirs).require(), config_dirs
    )


def objectives(
    *overrides: str, config_dirs: Sequence[str] = (), **options: Any
) -> list[ObjectiveRow]:
    """Lists every objective and the encoders it trains; see ``epitaxy objectives --help``."""
    from epitaxy.app.objective_table import list_objectives

    return list_objectives(
        _compose("objectives", overrides, options, config_dirs).require(), config_dirs
    )


def sweep(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Swept:
    """Fine-tunes over a grid; see ``epitaxy sweep --help``. The same call resumes it."""
    from epitaxy.app.sweeping import run_grid

    given = [*overrides, *render(options)]
    return run_grid(compose("sweep", given, config_dirs), given, config_dirs)


def report(*overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Path:
    """Compares runs in one HTML file and returns its path; see ``epitaxy report --help``."""
    from epitaxy.report.html import write_report

    config = _compose("report", overrides, options, config_dirs).require()
    runs = config["runs"] if isinstance(config["runs"], list) else [config["runs"]]
    folders = [Path(absolute(str(run))) for run in runs]
    given = config["evaluations"]
    named = [given] if isinstance(given, str) else given or []
    return write_report(
        folders,
        Path(absolute_output(str(config["out"]), "out")),
        evaluations=[Path(absolute(str(folder))) for folder in named],
        search=None if named else Path(config["home"]) / "evaluations",
        title=str(config["title"]),
    )


def publish(folder: str | Path, name: str, *overrides: str, **options: Any) -> Version:
    """Registers a model folder under ``name``; ``alias=["best"]`` names the version."""
    version: Version = registry("publish", *overrides, folder=str(folder), name=name, **options)
    return version


def pull(model: str, out: str | Path, *overrides: str, **options: Any) -> Path:
    """Copies a published model to the new folder ``out`` and checks every byte."""
    folder: Path = registry("pull", *overrides, model=model, out=str(out), **options)
    return folder


def registry(action: str, *overrides: str, config_dirs: Sequence[str] = (), **options: Any) -> Any:
    """Runs one registry action; see ``epitaxy registry --help``.

    Returns:
        ``list``: the versions; ``show``: the card; ``pull``: the folder; ``import-foreign``: the
        imported model; otherwise the version.
    """
    from epitaxy.app.models import card_text, registry_of

    if action not in REGISTRY_ACTIONS:
        raise ConfigError(f"no registry action {action!r}; {closest(action, REGISTRY_ACTIONS)}")
    config = _compose("registry", overrides, options, config_dirs).require()
    set_absolute(config, ("folder",), ("home", "out"))
    aliases = config["alias"] if isinstance(config["alias"], list) else [config["alias"]]
    if action == "import-foreign":
        from epitaxy.app.importing import run_import

        return run_import(config, aliases)
    store = registry_of(config)
    if action == "list":
        return store.list()
    if action == "publish":
        folder, name = _needed(config, action, "folder", "name")
        return store.publish(Path(folder), name, aliases=aliases)
    (model,) = _needed(config, action, "model")
    if action == "show":
        return card_text(store, model)
    if action == "verify":
        return store.verify(model)
    if action == "pull":
        (out,) = _needed(config, action, "out")
        return store.pull(model, Path(out))
    return _set_aliases(store, model, aliases)


def _set_aliases(store: Any, model: str, aliases: Sequence[str]) -> Version:
    if not aliases:
        raise ConfigError("registry alias needs alias=NAME")
    version: Version = store.resolve(model)
    for alias in aliases:
        version = store.set_alias(version.name, alias, version.number)
    return version


def _needed(config: dict[str, Any], action: str, *keys: str) -> list[str]:
    for key in keys:
        if config[key] is None:
            raise ConfigError(f"registry {action} needs {key}=…; see `epitaxy registry --help`")
    return [str(config[key]) for key in keys]


def _compose(
    verb: str, overrides: Sequence[str], options: dict[str, Any], config_dirs: Sequence[str]
) -> Composed:
    return compose(verb, [*overrides, *render(options)], config_dirs)
