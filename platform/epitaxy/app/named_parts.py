"""Components made of named parts, such as a combined objective: which names, and what they say.

A part that says ``use: NAME`` is that option of its group, its other keys the option's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from epitaxy.build import check_arguments, locate
from epitaxy.errors import ConfigError

OPTIONS = ("weight", "share")
"""Keys of a part that are no arguments of its objective."""


def expand_parts(config: Mapping[str, Any], option: Callable[[str], Mapping[str, Any]]) -> None:
    """Replaces ``use: NAME`` in the parts of ``config["objective"]`` by what it stands for.

    Args:
        config: Of a verb, plain; is changed in place.
        option: Returns an option of the group ``objective``.

    Raises:
        ConfigError: If there is no such option, or it takes no such argument, with the closest.
    """
    objective = config.get("objective", {})
    parts = objective.get("parts")
    if not isinstance(parts, dict):
        return
    if objective.get("order", ()) is None:  # it decides who owns a head, and JSON does not keep it
        objective["order"] = list(parts)
    for name, part in parts.items():
        if isinstance(part, Mapping) and "use" in part:
            parts[name] = _expanded(f"objective.parts.{name}", part, option(str(part["use"])))


def _expanded(where: str, part: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    explicit = part.get("objective", {})
    if not isinstance(explicit, Mapping) or "_target_" in explicit:
        raise ConfigError(f"{where} says both use: and objective: {{_target_: …}}; leave one out")
    given = {key: value for key, value in part.items() if key not in ("use", "objective", *OPTIONS)}
    objective = {**known, **given, **explicit}
    arguments = {key: value for key, value in objective.items() if key != "_target_"}
    check_arguments(locate(objective["_target_"]), f"{where} ({part['use']})", arguments)
    return {key: part[key] for key in OPTIONS if key in part} | {"objective": objective}
