"""Configuration: YAML groups of the wheel and the user's, plus overrides, to one plain dict.

The only module that knows Hydra. It checks every name itself, before Hydra sees it, because an
unknown key deserves the closest known one and not a stack of exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load

from epitaxy.app.components import argument_types, takes_mapping
from epitaxy.app.groups import further_folders, options_of, text_of
from epitaxy.app.named_parts import expand_parts
from epitaxy.app.overrides import parse, suggest
from epitaxy.app.paths import absolute, default_home
from epitaxy.build import check_arguments, locate
from epitaxy.errors import ConfigError, closest
from epitaxy.train import settings

CONFIG_MODULE = "epitaxy.conf"
_UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError)
_COMPONENTS = ("encoder", "objective", "finetune")
"""Groups whose options take arguments of their own."""

_TRAINING_NODES = {
    "split": settings.SplitSettings(),
    "filter": settings.FilterSettings(),
    "batch": settings.BatchSettings(),
    "mix": settings.MixSettings(),
    "optimizer": settings.OptimizerSettings(),
    "schedule": settings.ScheduleSettings(),
    "loop": settings.LoopSettings(),
}


@dataclass(frozen=True)
class Composed:
    """A configuration before anything runs.

    Attributes:
        config: Plain nested dictionaries; ``???`` where a value is still missing.
        choices: Which config of each group was taken, such as ``{"encoder": "cgcnn"}``; ``None``
            where none was.
        options: What could have been taken, by group.
        given: Keys the user set.
    """

    config: dict[str, Any]
    choices: Mapping[str, str | None]
    options: Mapping[str, tuple[str, ...]]
    given: frozenset[str]

    def require(self) -> dict[str, Any]:
        """Returns the config.

        Raises:
            ConfigError: Naming the first value that is missing.
        """
        for path in _missing(self.config):
            raise ConfigError(f"{path}=… is missing; `--help` says what it is")
        return self.config


def compose(verb: str, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Composed:
    """Returns the configuration of ``verb`` with ``overrides`` applied.

    Overrides win over an experiment, and an experiment over a recipe (``train=``), in whatever
    order they are written.

    Args:
        verb: Root config: ``pretrain``, ``finetune``…
        overrides: ``key=value``; ``group=name`` picks a config of that group.
        config_dirs: Folders with further groups (``DIR/encoder/mine.yaml``).

    Raises:
        ConfigError: For an unknown key or group option, with the closest known one, or a value
            that makes no sense.
    """
    _register_defaults()
    base = _search_path(config_dirs)
    pairs = [parse(text) for text in overrides]
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            defaults, groups = _compose(verb, base)
            options = {group: options_of(group, config_dirs) for group in groups}
            picks = {key: name for key, name in pairs if key in groups and _is_name(name)}
            for group, name in picks.items():
                if name is not None or groups[group] is not None:  # experiment=null is the default
                    _check_option(group, name, options[group])
            chosen = {group: name for group, name in picks.items() if name is not None}
            _check_verb(chosen.get("experiment"), verb, config_dirs)
            config, choices = _compose(verb, [*base, *(f"{g}={n}" for g, n in chosen.items())])
        _check_files(config, defaults, choices)
        if "experiment" in chosen and OmegaConf.is_missing(config.run, "name"):
            config.run.name = chosen["experiment"]
        _apply(config, [(k, v) for k, v in pairs if not (k in picks and _is_name(v))])
        plain = _resolve(config)
    except _UNREADABLE as error:
        raise ConfigError(f"configuration: {_one_line(error)}") from error
    expand_parts(plain, lambda name: every_option("objective", config_dirs, [name])[name])
    return Composed(plain, choices, options, frozenset(key for key, _ in pairs))


def every_option(
    group: str, config_dirs: Sequence[str] = (), only: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the configuration of every option of a group, such as every encoder, by name.

    Args:
        group: Such as ``encoder``.
        config_dirs: Folders with further groups.
        only: Names of the options to return, in this order; ``None`` for all.

    Raises:
        ConfigError: If there is no such option, or one of them cannot be read.
    """
    _register_defaults()
    base = _search_path(config_dirs)
    found: dict[str, dict[str, Any]] = {}
    name = ""
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            options = options_of(group, config_dirs)
            for name in options if only is None else only:
                _check_option(group, name, options)
                config = _resolve(hydra_compose("storage", [*base, f"+{group}={name}"]))
                found[name] = config[group]
    except _UNREADABLE as error:
        raise ConfigError(f"configuration {group}={name}: {_one_line(error)}") from error
    return found


def to_yaml(config: Mapping[str, Any]) -> str:
    """Returns ``config`` as YAML text."""
    return str(OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def _register_defaults() -> None:
    """Gives Hydra the defaults of the settings dataclasses, so that they stand in one place."""
    store = ConfigStore.instance()
    nodes = {name: settings.to_dict(value) for name, value in _TRAINING_NODES.items()}
    store.store(name="training_defaults", node={"seed": 0, **nodes})
    compute = settings.to_dict(settings.ComputeSettings())
    store.store(group="compute", name="compute_defaults", node=compute)
    OmegaConf.register_new_resolver("epitaxy_home", default_home, replace=True)


def _search_path(config_dirs: Sequence[str]) -> list[str]:
    """Returns the override that tells Hydra of groups besides the package's own."""
    folders = [f"'file://{path}'" for path in further_folders(config_dirs)]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def _compose(verb: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """Returns what Hydra makes of group choices alone, and which choices it made."""
    config = hydra_compose(verb, list(overrides), return_hydra_config=True)
    choices = {k: v for k, v in config.hydra.runtime.choices.items() if "hydra/" not in k}
    OmegaConf.set_struct(config, False)
    for key in ("hydra", "verb"):
        config.pop(key, None)
    return config, choices


def _is_name(value: Any) -> bool:
    return not isinstance(value, (Mapping, list))


def _check_option(group: str, name: Any, options: Sequence[str]) -> None:
    if name not in options:
        raise ConfigError(f"no {group} {name!r}; {closest(str(name), options)}")


def _check_verb(experiment: str | None, verb: str, config_dirs: Sequence[str]) -> None:
    """Refuses an experiment that says it is for another verb; a sweep is a grid of fine-tunes."""
    content = safe_load(text_of("experiment", experiment, config_dirs))
    wanted = content.get("verb", verb) if isinstance(content, Mapping) else verb
    if wanted != verb and (wanted, verb) != ("finetune", "sweep"):
        raise ConfigError(f"experiment {experiment} is for `epitaxy {wanted}`, not {verb}")


def _check_files(
    config: DictConfig, defaults: DictConfig, choices: Mapping[str, str | None]
) -> None:
    """Refuses options that a recipe or an experiment made up; components check their own."""
    known = set(_paths(OmegaConf.to_container(defaults)))
    for path in _paths(OmegaConf.to_container(config)):
        if path not in known and path.split(".")[0] not in _COMPONENTS:
            chosen = ", ".join(f"{group}={name}" for group, name in choices.items() if name)
            raise ConfigError(
                f"unknown option {path!r} in one of the files of {chosen}; {suggest(path, known)}"
            )


def _apply(config: DictConfig, pairs: Sequence[tuple[str, Any]]) -> None:
    for key, value in pairs:
        known = set(_paths(OmegaConf.to_container(config)))
        for path in _leaves(key, value):
            if path not in known and not _component_takes(config, path):
                raise ConfigError(f"unknown option {path!r}; {suggest(path, known)}")
        OmegaConf.update(config, key, value, merge=True, force_add=True)
    if "home" in config:
        config.home = absolute(str(config.home))


def _leaves(key: str, value: Any) -> Iterator[str]:
    """Yields the dotted paths an override sets: ``filter={max_force: 5}`` sets one in filter."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key


def _component_takes(config: DictConfig, path: str) -> bool:
    """Returns whether a component takes ``path``, although its YAML leaves it out.

    It is an argument, or in an argument that is a mapping: ``objective.weights={gap: 2}``.
    """
    names = path.split(".")
    for depth in range(len(names) - 1, 0, -1):
        parent, argument = ".".join(names[:depth]), names[depth]
        component = OmegaConf.select(config, parent)
        if not isinstance(component, DictConfig) or "_target_" not in component:
            continue
        callable_ = locate(component["_target_"])
        check_arguments(callable_, parent, {**_container(component), argument: None})
        is_argument = depth == len(names) - 1
        return is_argument or takes_mapping(argument_types(callable_).get(argument))
    return False


def _container(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config)
    return {str(key): value for key, value in plain.items() if key != "_target_"}


def _resolve(config: DictConfig) -> dict[str, Any]:
    """Returns plain dictionaries; text that hangs on a missing value is missing itself."""
    for path in _missing(OmegaConf.to_container(config)):
        _mark_dependents(config, path)
    plain = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in plain.items()}


def _mark_dependents(config: DictConfig, missing: str) -> None:
    written = OmegaConf.to_container(config)
    for path in _paths(written):
        raw: Any = written
        for part in path.split("."):
            raw = raw[part]
        if isinstance(raw, str) and f"${{{missing}}}" in raw:
            OmegaConf.update(config, path, "???")


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _missing(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _missing(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split("\n    ")[0].split())
