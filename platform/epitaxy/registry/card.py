"""The card of a published model: where it comes from, what it predicts, how well.

A card that came from elsewhere is data, never code: ``check_targets`` refuses every ``_target_``
outside the trusted modules before anything is built from it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import epitaxy
from epitaxy.build import TRUSTED_PREFIXES
from epitaxy.errors import RegistryError

CARD_FILE = "card.json"
CARD_FORMAT = 1

LINEAGE_KEYS = ("run", "parent", "teacher", "data", "plan", "metrics", "code", "notes", "schemes")
"""What a publisher may say of a model; each is explained in ``build_card``."""


def build_card(folder: Path, name: str, lineage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the card of the model in ``folder``.

    Args:
        folder: Model folder. If it holds a card (a pulled copy), that card's lineage is kept
            wherever ``lineage`` is silent.
        name: Registered name.
        lineage: ``run`` {name, science_digest}, ``parent`` {reference, digest, strategy} or None,
            ``teacher`` {reference, digest, weights} if it learnt from one, ``data`` {digest,
            source, recipe, licence, citation…}, ``plan`` {digest}, ``metrics`` {name: {value,
            unit}}, ``code`` {version…}, ``notes``, ``schemes`` {label: functional and corrections
            of its data}.

    Raises:
        RegistryError: If ``model.json`` or an old card cannot be read, or a lineage key is unknown.
    """
    unknown = set(lineage or {}) - set(LINEAGE_KEYS)
    if unknown:
        raise RegistryError(f"lineage key {sorted(unknown)[0]!r} is unknown: use {LINEAGE_KEYS}")
    model = read_json(folder / "model.json")
    old = read_json(folder / CARD_FILE) if (folder / CARD_FILE).exists() else {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    card: dict[str, Any] = {
        "format": CARD_FORMAT,
        "name": name,
        "created": now,
        "encoder": model.get("encoder"),
        "objective": model.get("objective"),
        "labels": old.get("labels") or describe_labels(model, (lineage or {}).get("schemes", {})),
        "code": {"version": epitaxy.__version__},
        "data": model.get("data", {}),
        "parent": None,
    }
    for source in (old, lineage or {}):
        card |= {key: source[key] for key in LINEAGE_KEYS if key in source and key != "schemes"}
    return card


def describe_labels(
    model: Mapping[str, Any], schemes: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Returns {label: {unit, scheme}} of what the model in ``model.json`` predicts."""
    units = model.get("units") or {}
    return {
        label: {"unit": str(unit), "scheme": str(schemes.get(label, ""))}
        for label, unit in sorted(units.items())
    }


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in ``path``.

    Raises:
        RegistryError: If there is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise RegistryError(f"{path} must hold a JSON object, found {type(document).__name__}")
    return document


def check_targets(document: Any, where: str, trusted: tuple[str, ...] = ()) -> None:
    """Refuses a document that names code outside the trusted modules.

    Args:
        document: JSON data that came from elsewhere.
        where: Its file, for the message.
        trusted: Module prefixes that the user vouches for, besides epitaxy's own parts.

    Raises:
        RegistryError: Naming the first such target and how to trust it.
    """
    allowed = (*TRUSTED_PREFIXES, *trusted)
    for target in _targets(document):
        if not isinstance(target, str) or not target.startswith(allowed):
            raise RegistryError(
                f"{where} names the code {target!r}, which is not trusted (trusted: "
                f"{', '.join(allowed)}); if you know that package, name it: trust=[package.]"
            )


def _targets(document: Any) -> Iterator[Any]:
    if isinstance(document, Mapping):
        for key, value in document.items():
            if key == "_target_":
                yield value
            yield from _targets(value)
    elif isinstance(document, (list, tuple)):
        for item in document:
            yield from _targets(item)


def render_card(card: Mapping[str, Any]) -> str:
    """Returns the card as Markdown for people."""
    lines = [f"# {card['name']}", ""]
    lines += [f"Published {card['created']} with epitaxy {card['code'].get('version', '?')}.", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in _facts(card) if value]
    if card["labels"]:
        lines += ["", "## Predicts", "", "| label | unit | scheme |", "|---|---|---|"]
        lines += [f"| {k} | {v['unit']} | {v['scheme']} |" for k, v in card["labels"].items()]
    if card.get("metrics"):
        lines += ["", "## Metrics", "", "| metric | value | unit |", "|---|---|---|"]
        lines += [
            f"| {name} | {metric['value']:.6g} | {metric.get('unit') or ''} |"
            for name, metric in sorted(card["metrics"].items())
        ]
    if card.get("notes"):
        lines += ["", str(card["notes"])]
    return "\n".join(lines) + "\n"


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "encoder", _component(card.get("encoder"))
    yield "objective", _component(card.get("objective"))
    for key in ("parent", "teacher", "data", "run", "plan"):
        section = card.get(key)
        if isinstance(section, Mapping):
            for name, value in section.items():
                if isinstance(value, (str, int, float)):
                    yield f"{key}: {name}", f"`{_one_line(value)}`"
        elif key == "parent":
            yield "parent", "none (trained from scratch)"


def _component(config: Any) -> str:
    if not isinstance(config, Mapping):
        return ""
    arguments = ", ".join(f"{k}={v}" for k, v in config.items() if k != "_target_")
    return f"`{_one_line(config.get('_target_'))}({_one_line(arguments)})`"


def _one_line(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
