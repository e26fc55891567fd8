"""Configuration: YAML groups of the wheel and the user's, plus overrides, to one plain dict.

The only module that knows Hydra. It checks every name itself, before Hydra sees it, because an
unknown key deserves the closest known one and not a stack of exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from epitaxy.app.components import argument_types, takes_mapping
from epitaxy.app.overrides import parse, suggest
from epitaxy.app.paths import absolute, default_home
from epitaxy.build import check_arguments, locate
from epitaxy.errors import ConfigError, closest
from epitaxy.train import settings

CONFIG_MODULE = "epitaxy.conf"
_UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError)

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
        choices: Which config of each group was taken, such as ``{"encoder": "cgcnn"}``.
        options: What could have been taken, by group.
        given: Keys the user set.
    """

    config: dict[str, Any]
    choices: Mapping[str, str]
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

    Args:
        verb: Root config: ``pretrain``, ``finetune``…
        overrides: ``key=value``; ``group=name`` picks a config of that group.
        config_dirs: Folders with further groups (``DIR/encoder/mine.yaml``).

    Raises:
        ConfigError: For an unknown key or group option, with the closest known one, or a value
            that makes no sense.
    """
    _register_defaults()
    search = [_search_path(folder) for folder in config_dirs]
    base = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    pairs = [parse(text) for text in overrides]
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            first = hydra_compose(verb, base, return_hydra_config=True)
            groups = {k: v for k, v in first.hydra.runtime.choices.items() if "hydra/" not in k}
            options = {group: _group_options(group, config_dirs) for group in groups}
            picks = {key: value for key, value in pairs if key in groups and _is_name(value)}
            for group, name in picks.items():
                _check_option(group, name, options[group])
            config = hydra_compose(verb, base + [f"{g}={n}" for g, n in picks.items()])
        _apply(config, [(k, v) for k, v in pairs if not (k in picks and _is_name(v))])
        plain = _resolve(config)
    except _UNREADABLE as error:
        raise ConfigError(f"configuration: {_one_line(error)}") from error
    given = frozenset(key for key, _ in pairs)
    return Composed(plain, {**groups, **picks}, options, given)


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
    search = [_search_path(folder) for folder in config_dirs]
    base = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    found: dict[str, dict[str, Any]] = {}
    name = ""
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            options = _group_options(group, config_dirs)
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


def _search_path(folder: str) -> str:
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError(f"--config-dir {path} is no folder")
    return f"'file://{path}'"


def _group_options(group: str, config_dirs: Sequence[str]) -> tuple[str, ...]:
    known = set(GlobalHydra.instance().config_loader().get_group_options(group))
    for folder in config_dirs:
        known |= {path.stem for path in (Path(folder).expanduser() / group).glob("*.yaml")}
    return tuple(sorted(name for name in known if not name.endswith("_defaults")))


def _is_name(value: Any) -> bool:
    return not isinstance(value, (Mapping, list))


def _check_option(group: str, name: Any, options: Sequence[str]) -> None:
    if name not in options:
        raise ConfigError(f"no {group} {name!r}; {closest(str(name), options)}")


def _apply(config: DictConfig, pairs: Sequence[tuple[str, Any]]) -> None:
    OmegaConf.set_struct(config, False)
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
    for path in _paths(OmegaConf.to_container(config)):
        raw = OmegaConf.to_container(config)
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
