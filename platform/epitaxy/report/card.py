"""The data card: what a prepared data set holds, where it came from, and what to watch out for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import tree_bytes
from epitaxy.data.statistics import Statistics, describe
from epitaxy.errors import ConfigError
from epitaxy.report import card_sections as sections
from epitaxy.report.card_notes import notes_on
from epitaxy.report.drawing import pretty_unit
from epitaxy.report.page import page, write_page
from epitaxy.report.tables import (
    Markup,
    byte_size,
    count,
    definitions,
    details,
    number,
    paragraph,
    table,
    tiles,
)

_VERDICTS = {
    "confirmed": ("good", "✓"),
    "undetermined": ("open", "?"),
    "suspicious": ("doubt", "!"),
    "contradicted": ("bad", "✗"),
}


@dataclass(frozen=True)
class _Verdict:
    """A verdict in a table: a word with its sign and colour."""

    word: str

    def html(self) -> str:
        kind, sign = _VERDICTS.get(self.word.lower(), ("open", "·"))
        return f'<span class="verdict {kind}">{sign} {escape(self.word)}</span>'


def write_card(
    folder: str | Path, out: str | Path, *, statistics: Statistics | None = None
) -> Path:
    """Writes the card of the data set in ``folder`` and returns its path.

    Args:
        folder: A prepared data set.
        out: HTML file; one that exists is replaced.
        statistics: Of this data set, if they are at hand; computed from all records otherwise.

    Raises:
        ConfigError: If ``statistics`` are of another data set, or the checks cannot be read.
        ShardError: If the data set is damaged.
    """
    dataset = Dataset.open(folder)
    statistics = describe(dataset) if statistics is None else statistics
    if statistics.data_digest != dataset.data_digest:
        raise ConfigError(
            f"the statistics are of data {statistics.data_digest[:16]}, but {dataset.path} holds "
            f"{dataset.data_digest[:16]}; describe this data set"
        )
    return write_page(render(dataset, statistics), out)


def render(dataset: Dataset, statistics: Statistics) -> str:
    """Returns the card as a page."""
    manifest = dataset.manifest
    parts = [
        _overview(dataset, statistics),
        _checks(dataset.manifest.checks),
        sections.labels_section(dataset, statistics),
        sections.elements_section(statistics),
        sections.structures_section(statistics),
        sections.splits_section(dataset),
        sections.examples_section(dataset),
        _provenance(dataset),
    ]
    summary = f"Data card of {count(len(dataset))} records, prepared {_time(manifest.created)}"
    return page(dataset.path.name, summary, parts)


def _time(created: str) -> str:
    """Returns ``2026-01-02T03:04:05+00:00`` as ``2026-01-02 03:04 UTC``."""
    try:
        found = datetime.fromisoformat(created).astimezone(UTC)
    except ValueError:
        return created or "at an unknown time"
    return f"{found:%Y-%m-%d %H:%M} UTC"


def _overview(dataset: Dataset, statistics: Statistics) -> str:
    manifest, recipe = dataset.manifest, dataset.manifest.recipe
    facts = [
        ("records", count(statistics.records)),
        ("atoms", count(statistics.atoms)) if statistics.atoms else ("compositions", count(
            statistics.compositions)),
        ("elements", count(len(statistics.elements.records))),
        ("formulas", count(statistics.formulas.distinct)),
        ("groups", count(statistics.groups.distinct)),
        ("labels", count(len(manifest.fields))),
        ("on disk", byte_size(_stored_bytes(dataset))),
    ]  # fmt: skip
    about = [
        ("licence", manifest.licence),
        ("cite", manifest.citation),
        ("original", _original(recipe, len(dataset))),
        ("digest", manifest.data_digest),
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in notes_on(statistics, manifest))
    return (
        f"<section>{paragraph(str(recipe.get('description', '')))}{tiles(facts)}"
        f"{definitions(about)}"
        + (f'<h2>Worth knowing</h2><ul class="notes">{notes}</ul>' if notes else "")
        + "</section>"
    )


def _original(recipe: Mapping[str, Any], records: int) -> str:
    size, url = recipe.get("size"), str(recipe.get("url") or "")
    share = f"{count(records)} of its {count(int(size))} records are here" if size else ""
    return "; ".join(filter(None, (url, share)))


def _stored_bytes(dataset: Dataset) -> int:
    entries = (*dataset.manifest.shards, *dataset.manifest.files)
    return sum(entry.bytes for entry in entries)


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    if not checks:
        return ""
    rows: list[list[str | Markup]] = [
        [
            str(check.get("name", "")).replace("_", " "),
            _Verdict(str(check.get("verdict", ""))),
            str(check.get("statement", "")),
            _evidence(check.get("evidence")),
        ]
        for check in checks
    ]
    return (
        "<section><h2>What physics says</h2>"
        + table(("check", "verdict", "statement", "evidence"), rows, kind="prose wide")
        + "</section>"
    )


def _evidence(evidence: Any) -> str:
    if isinstance(evidence, Mapping):
        return "; ".join(f"{_words(name)} {_value(value)}" for name, value in evidence.items())
    if isinstance(evidence, list):
        return "; ".join(map(_value, evidence))
    return "" if evidence is None else _value(evidence)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return count(value) if isinstance(value, int) else number(value, 4)


def _provenance(dataset: Dataset) -> str:
    manifest, recipe = dataset.manifest, dataset.manifest.recipe
    facts = [
        ("recipe", str(recipe.get("name", ""))),
        ("prepared", _time(manifest.created)),
        ("by", f"{manifest.generator}, manifest format {manifest.format}"),
        ("storage", f"{manifest.storage}, shards: {len(manifest.shards)}"),
    ]
    files = [
        [
            Path(str(file.get("path"))).name,
            byte_size(int(file.get("bytes", 0))),
            str(file.get("sha256")),
        ]
        for file in manifest.source.get("files", ())
    ]
    notes = str(recipe.get("notes") or "")
    parts = [
        definitions(facts),
        table(("source file", "size", "sha256"), files, kind="digests") if files else "",
        _conversions(manifest.conversions),
        _left_out(dataset),
        details("notes of the recipe", paragraph(notes)) if notes else "",
        details("stored files", _stored_files(dataset)),
    ]
    return f"<section><h2>Where it comes from</h2>{''.join(parts)}</section>"


def _conversions(conversions: Sequence[Mapping[str, Any]]) -> str:
    if not conversions:
        return ""
    known = ("label", "key", "from", "to", "multiplied_by")
    rows = []
    for entry in conversions:
        rest = {name: value for name, value in entry.items() if name not in known and value}
        rows.append(
            [
                str(entry.get("label", "")),
                str(entry.get("key", "")),
                f"{_unit(entry.get('from'))} → {_unit(entry.get('to'))}",
                f"{float(entry.get('multiplied_by', 1.0)):.8g}",
                _evidence(rest),
            ]
        )
    header = ("label", "key in the source", "unit", "multiplied by", "conventions")
    return f"<h3>Conversions</h3>{table(header, rows, kind='prose')}"


def _unit(unit: object) -> str:
    return pretty_unit(str(unit)) if unit else "no unit"


def _left_out(dataset: Dataset) -> str:
    skipped, filtered = dataset.manifest.skipped, dataset.manifest.filtered
    parts = []
    if filtered:
        rows = [[rule, count(taken)] for rule, taken in filtered.items()]
        parts.append(table(("left out by rule", "records"), rows))
    if skipped.count:
        rows = [[where, why] for where, why in skipped.listed]
        summary = f"{count(skipped.count)} records could not be used"
        if len(rows) < skipped.count:
            summary += f" (the first {len(rows)} are listed, skipped.jsonl has all)"
        parts.append(details(summary, table(("where", "why"), rows, kind="prose wide")))
    return f"<h3>Left out</h3>{''.join(parts)}" if parts else ""


def _stored_files(dataset: Dataset) -> str:
    entries = [*dataset.manifest.shards, *dataset.manifest.files]
    rows = [[entry.path, byte_size(entry.bytes), entry.sha256] for entry in entries]
    total = tree_bytes(dataset.path)
    return table(
        ("file", "size", "sha256"), rows, f"{byte_size(total)} in the whole folder", kind="digests"
    )
