"""Commands that make the reported runs again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from epitaxy.report.collect import SCRATCH, RunSummary
from epitaxy.train.settings import RunSettings, to_dict

_SECTIONS = ("seed", "split", "filter", "batch", "optimizer", "schedule", "loop")


def command_of(run: RunSummary) -> str:
    """Returns the command line of a run: what is not a default, spelled out."""
    settings = run.settings
    words = ["epitaxy", run.verb, f"data={settings['data']}"]
    if run.verb == "finetune":
        words.append(f"finetune={run.strategy}")
        words += _differences(
            {k: v for k, v in settings["init"]["strategy"].items() if k != "_target_"},
            _config("finetune", run.strategy), "finetune",
        )  # fmt: skip
        source = run.lineage.get("reference") or settings["init"].get("model")
        words += [f"from={source}"] if source else []
    if run.verb != "finetune" or run.strategy == SCRATCH:
        words += _component("encoder", settings["encoder"], "encoder")
    words += _component("objective", settings["objective"], "objective")
    defaults = to_dict(RunSettings("", "", "", {}, {}))
    for section in _SECTIONS:
        words += _differences(settings[section], defaults[section], section)
    compute = settings["compute"]
    words.append(f"compute={compute['backend']}")
    if compute["backend"] == "ray":
        words.append(f"compute.workers={compute['workers']}")
    return shlex.join([*words, f"run.name={run.name}"])


def _component(
    kind: str, config: Mapping[str, Any], option: str, prefix: str | None = None
) -> list[str]:
    """Returns the ``option`` that names an installed part and those, under it, that change it."""
    parts = config.get("parts", {})
    config = {key: value for key, value in config.items() if key != "parts"}
    best: tuple[int, str, list[str]] | None = None
    for path in files("epitaxy.conf").joinpath(kind).iterdir():
        name, _, suffix = path.name.rpartition(".")
        known = yaml.safe_load(path.read_text(encoding="utf-8")) if suffix == "yaml" else {}
        if known.get("_target_") == config.get("_target_"):
            changes = _differences(config, known, prefix or option)
            if best is None or len(changes) < best[0]:
                best = (len(changes), name, changes)
    if best is None:
        return [f"{option}={config.get('_target_')}"]
    words = [f"{option}={best[1]}", *best[2]]
    for name, part in parts.items():
        inner = f"{option}.parts.{name}"
        objective = part["objective"]
        words += _component(kind, objective, f"{inner}.use", f"{inner}.objective")
        options = {key: value for key, value in part.items() if key != "objective"}
        words += _differences(options, {}, inner)
    return words


def _config(kind: str, name: str) -> dict[str, Any]:
    path = files("epitaxy.conf").joinpath(kind, f"{name}.yaml")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _differences(values: Any, defaults: Any, name: str) -> list[str]:
    if isinstance(values, Mapping) and values:
        defaults = defaults if isinstance(defaults, Mapping) else {}
        return [
            word
            for key, value in values.items()
            for word in _differences(value, defaults.get(key), f"{name}.{key}")
        ]
    return [] if values == defaults else [f"{name}={_text(values)}"]


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(item) for item in value)}]"
    return str(value)
