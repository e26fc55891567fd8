"""The report on training runs: its sections in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from epitaxy.report import sections
from epitaxy.report.collect import Collection, collect
from epitaxy.report.compare import find_comparisons
from epitaxy.report.page import page, write_page

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
    return write_page(render(collection, title), out)


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
    counts = f"{len(collection.runs)} runs, {len(collection.evaluations)} evaluations"
    return page(title, counts, parts)
