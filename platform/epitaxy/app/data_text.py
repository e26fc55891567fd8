"""A prepared data set in words and tables, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epitaxy.app.tables import columns
from epitaxy.data.dataset import Dataset
from epitaxy.data.manifest import Manifest
from epitaxy.data.split_files import list_splits, load_split
from epitaxy.data.unite import MergeReport


def manifest_text(dataset: Dataset) -> str:
    """Returns what a data set holds, where it came from, and how far its labels can be trusted."""
    manifest = dataset.manifest
    size = sum(entry.bytes for entry in (*manifest.shards, *manifest.files))
    lines = [
        dataset.location,
        f"{manifest.num_records} records, {len(manifest.shards)} {manifest.storage} shards, "
        f"{size / 2**20:.1f} MiB, data digest {manifest.data_digest[:16]}",
        f"made {manifest.created} by {manifest.generator}",
        *_versions(manifest),
        "",
        *_recipe(manifest),
        *_labels(manifest),
        *_left_out(manifest),
        *checks_text(manifest.checks),
        splits_text(dataset),
    ]
    return "\n".join(lines).rstrip()


def checks_text(checks: tuple[Mapping[str, Any], ...]) -> list[str]:
    """Returns what physics says of the labels, a line for each check."""
    if not checks:
        return []
    return [
        "evidence",
        *(f"  {c['verdict']:<13} {c['name']}: {c['statement']}" for c in checks),
        "",
    ]


def _versions(manifest: Manifest) -> list[str]:
    """Returns what was there before records were appended."""
    if not manifest.history:
        return []
    before = ", ".join(f"{e['version']} ({e['num_records']} records)" for e in manifest.history)
    return [f"version {manifest.version}; earlier ones: {before}"]


def _recipe(manifest: Manifest) -> list[str]:
    lines = []
    for name, text in (
        ("recipe", manifest.recipe.get("name")),
        ("about", manifest.recipe.get("description")),
        ("licence", manifest.licence),
        ("cite", manifest.citation),
    ):
        if text:
            lines.append(f"{name:<8} {' '.join(str(text).split())}")
    for file in manifest.source.get("files", ()):
        lines.append(f"{'file':<8} {file['path']}  sha256 {file['sha256'][:16]}…")
    return [*lines, ""]


def _labels(manifest: Manifest) -> list[str]:
    if not manifest.fields:
        return ["no labels", ""]
    done = {entry["label"]: entry for entry in manifest.conversions}
    rows = [("label", "unit", "shape", "scheme", "converted from")]
    for field in manifest.fields:
        shape = ("atoms", *field.shape) if field.per_atom else field.shape
        rows.append(
            (
                field.name,
                field.unit or "-",
                "×".join(map(str, shape)) or "number",
                field.scheme or "-",
                _conversion(done.get(field.name)),
            )
        )
    return [*columns(rows).splitlines(), ""]


def _conversion(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    text = f"{entry['key']} in {entry['from'] or 'no unit'}"
    if entry["multiplied_by"] != 1.0:
        text += f" × {entry['multiplied_by']:.6g}"
    if "undone" in entry:
        text += f", {entry['undone']['multiply']:g} · raw + {entry['undone']['add']:g}"
    if "times" in entry:
        text += f" × {entry['times']}"
    if "divided_by" in entry:
        text += f" / {entry['divided_by']}"
    if isinstance(entry.get("components"), Mapping):
        text += ", component order by element"
    return text


def _left_out(manifest: Manifest) -> list[str]:
    lines = [f"left out {count}: {rule}" for rule, count in manifest.filtered.items()]
    if manifest.skipped.count:
        where, why = manifest.skipped.listed[0]
        lines.append(f"skipped  {manifest.skipped.count} bad records; the first: {where}: {why}")
    return [*lines, ""] if lines else []


def splits_text(dataset: Dataset, names: Sequence[str] | None = None) -> str:
    """Returns the numbers of records in stored splits, all by default; empty if there are none."""
    names = list_splits(dataset) if names is None else names
    if not names:
        return ""
    rows: list[tuple[str, ...]] = [("split", "train", "val", "test")]
    for name in names:
        stored = load_split(dataset, name)
        rows.append((name, *(str(len(stored.rows[part])) for part in ("train", "val", "test"))))
    return columns(rows)


def merge_text(report: MergeReport) -> str:
    """Returns what a merge did, conflicts with their first examples."""
    lines = [f"{count:,} records of {name}" for name, count in report.sources.items()]
    lines.append(f"{report.records:,} merged records, {report.united:,} of them made from several")
    if report.kept_apart:
        lines.append(
            f"{report.kept_apart:,} match another record but stay on their own: their "
            "labels belong to another cell, order of atoms or orientation"
        )
    if report.renamed:
        lines.append(f"{report.renamed:,} ids occur twice and got the name of their data set")
    for name, count in report.dropped.items():
        lines.append(f"{count:,} values of {name} left out: another scheme, unit or shape")
    for name, count in report.conflicts.items():
        first = report.examples.get(name, [])[:1]
        lines.append(f"{count:,} records disagree on {name}, such as {first[0] if first else ''}")
    return "\n".join(lines)
