"""The report: one HTML file that needs nothing else, to be read on a screen, a phone or paper."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path

import epitaxy
from epitaxy.report import sections
from epitaxy.report.collect import Collection, collect
from epitaxy.report.compare import find_comparisons

DEFAULT_TITLE = "Training report"


def write_report(
    runs: Iterable[str | Path],
    out: str | Path,
    *,
    evaluations: Iterable[str | Path] = (),
    search: str | Path | None = None,
    title: str = DEFAULT_TITLE,
) -> Path:
    """Writes a report on training runs and returns its path.

    Fine-tunes for one label of one data set that differ in how they start, and share seeds, are
    compared pair by pair: on the test split if there are evaluations of all of them there,
    otherwise on the validation split, and the report says so.

    Args:
        runs: Run folders; a sweep's folder stands for its trials.
        out: HTML file; one that exists is replaced.
        evaluations: Folders that ``epitaxy evaluate`` wrote. Those in ``<run>/evaluation-*`` are
            found without being named.
        search: Folder under which further evaluations of the runs' final models are looked for.
        title: Heading.

    Raises:
        ConfigError: If a folder holds no run.
        CheckpointError: If a file of a run is damaged.
    """
    collection = collect(runs, evaluations, search)
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(render(collection, title), encoding="utf-8")
    temporary.replace(out)
    return out


def render(collection: Collection, title: str = DEFAULT_TITLE) -> str:
    """Returns the page."""
    comparisons = find_comparisons(collection)
    parts = [
        sections.comparisons_section(comparisons),
        sections.evaluations_section(collection, comparisons),
        sections.runs_section(collection, comparisons),
        sections.data_section(collection),
        sections.settings_section(collection),
        sections.reproduction_section(collection),
    ]
    style = files("epitaxy.report").joinpath("style.css").read_text(encoding="utf-8")
    made = time.strftime("%Y-%m-%d %H:%M %Z")
    counts = f"{len(collection.runs)} runs, {len(collection.evaluations)} evaluations"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="soft">{counts}; made by epitaxy {epitaxy.__version__} on {made}</p></header>'
        f"<main>{''.join(parts)}</main></body></html>\n"
    )
