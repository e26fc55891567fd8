"""Reads run folders, data sets and evaluations into plain summaries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from epitaxy.data.mixture import Data, members_of, open_data
from epitaxy.errors import ConfigError, ShardError
from epitaxy.graph.record import LabelField
from epitaxy.predict.evaluation import METRICS_FILE, Evaluation
from epitaxy.train.checkpoint import FINAL, WEIGHTS
from epitaxy.train.folders import MANIFEST, read_json
from epitaxy.train.identity import RUN
from epitaxy.train.logs import read_metrics
from epitaxy.train.recorder import RESULT

SCRATCH = "scratch"
TRIALS = "trials"
CONFIG = "config.yaml"
_CHUNK = 50_000

SYMBOLS = (  # noqa: SIM905 - 119 quoted strings would fill a page
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
"""By atomic number; 0 is no element."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSummary:
    """A prepared data set, as its manifest and sidecars describe it.

    Attributes:
        name: Of its folder.
        digest: Of its contents.
        records: Number of records.
        skipped: Records that ``prepare`` left out.
        elements: Symbols that occur, by atomic number.
        labels: Label fields.
        recipe: Name of the recipe.
        description: What the recipe says of it.
        licence: Of the data.
        citation: Whom to cite.
    """

    name: str
    digest: str
    records: int
    skipped: int
    elements: tuple[str, ...]
    labels: tuple[LabelField, ...]
    recipe: str
    description: str
    licence: str
    citation: str


@dataclass(frozen=True)
class RunSummary:
    """A training run, as its folder describes it.

    Attributes:
        name: Of the run.
        directory: Its folder.
        verb: ``pretrain`` or ``finetune``.
        settings: All settings.
        labels: Labels it was trained on.
        strategy: ``scratch``, ``full``, …
        data_digest: Of the data set it was trained on.
        records: Sizes of the splits and what the filters took.
        metrics: Of the final model on the validation split; empty while it is unfinished.
        units: Units of the metrics.
        history: Lines of ``metrics.jsonl``.
        lineage: Model it started from; empty if none.
        versions: Of the libraries.
        created: When it was first started.
        weights: sha256 of the final weights; empty while it is unfinished.
    """

    name: str
    directory: Path
    verb: str
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    strategy: str
    data_digest: str
    records: Mapping[str, Any]
    metrics: Mapping[str, float]
    units: Mapping[str, str]
    history: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    weights: str

    @property
    def seed(self) -> int:
        """Seed of initial weights, order and noise."""
        return int(self.settings["seed"])

    def lines(self, kind: str) -> list[Mapping[str, Any]]:
        """Returns the history's lines of ``kind``: ``train`` or ``val``."""
        return [line for line in self.history if line["kind"] == kind]


@dataclass(frozen=True)
class EvaluationSummary:
    """An evaluation and the run its model came from, if that run is reported too."""

    directory: Path
    evaluation: Evaluation
    run: RunSummary | None

    @property
    def name(self) -> str:
        """The model's name: of the run, else of its card."""
        return self.run.name if self.run else str(self.evaluation.info["model"]["name"])

    @property
    def split(self) -> str:
        """Which records were evaluated."""
        return str(self.evaluation.info["data"]["split"] or "given rows")


@dataclass(frozen=True)
class Collection:
    """Everything that a report shows.

    Attributes:
        runs: In the order given.
        data: Data sets of the runs by digest; without those that are gone.
        evaluations: Of the runs, or given.
        notes: What could not be read, for the reader of the report.
    """

    runs: Sequence[RunSummary]
    data: Mapping[str, DataSummary]
    evaluations: Sequence[EvaluationSummary]
    notes: Sequence[str] = field(default_factory=tuple)


def collect(
    folders: Iterable[str | Path],
    evaluations: Iterable[str | Path] = (),
    search: str | Path | None = None,
) -> Collection:
    """Reads runs, their data sets and their evaluations.

    Args:
        folders: Run folders; a sweep's folder stands for all of its trials.
        evaluations: Folders of evaluations to show in any case.
        search: Folder under which evaluations of the runs' final models are looked for, besides
            ``<run>/evaluation-*``.

    Raises:
        ConfigError: If a folder holds no run, or two runs have one name and folder.
        CheckpointError: If a file of a run is damaged.
    """
    runs = [read_run(folder) for folder in dict.fromkeys(_run_folders(folders))]
    by_weights = {run.weights: run for run in runs if run.weights}
    found = []
    for directory in _evaluation_folders(runs, evaluations, search, by_weights):
        evaluation = Evaluation.load(directory)
        run = by_weights.get(str(evaluation.info["model"]["weights"]))
        found.append(EvaluationSummary(directory, evaluation, run))
    order = {run.directory: place for place, run in enumerate(runs)}
    found.sort(key=lambda item: order.get(item.run.directory, -1) if item.run else -1)
    notes, data = [], {}
    for run in runs:
        if not run.weights:
            notes.append(f"The run {run.name} is not finished.")
        if run.data_digest not in data:
            summary = _read_data(run, notes)
            if summary is not None:
                data[run.data_digest] = summary
    return Collection(runs, data, found, tuple(dict.fromkeys(notes)))


def read_run(folder: str | Path) -> RunSummary:
    """Returns the summary of one run folder.

    Raises:
        ConfigError: If it holds no run.
        CheckpointError: If one of its files is damaged.
    """
    folder = Path(folder).resolve()
    if not (folder / RUN).is_file():
        raise ConfigError(f"{folder} is no run folder: it has no {RUN}")
    run = read_json(folder / RUN)
    settings = run["settings"]
    finished = (folder / RESULT).is_file()
    return RunSummary(
        name=str(run["name"]),
        directory=folder,
        verb=_verb(folder, settings),
        settings=settings,
        labels=_labels(run),
        strategy=_snake(str(settings["init"]["strategy"]["_target_"]).rpartition(".")[2]),
        data_digest=str(run["data"]["digest"]),
        records=run["records"],
        metrics=read_json(folder / RESULT)["metrics"] if finished else {},
        units=run["units"],
        history=read_metrics(folder),
        lineage=settings["init"].get("lineage") or {},
        versions=run["versions"],
        created=str(run["created"]),
        weights=str(read_json(folder / FINAL / MANIFEST)[WEIGHTS]["sha256"]) if finished else "",
    )


def component(config: Mapping[str, Any]) -> str:
    """Returns the class name of a ``_target_``."""
    return str(config.get("_target_", "")).rpartition(".")[2]


def _run_folders(folders: Iterable[str | Path]) -> Iterable[Path]:
    for folder in folders:
        path = Path(folder).resolve()
        trials = sorted(path.glob(f"{TRIALS}/*/{RUN}"))
        if (path / RUN).is_file() or not trials:
            yield path
        else:
            yield from (trial.parent for trial in trials)


def _evaluation_folders(
    runs: Sequence[RunSummary],
    given: Iterable[str | Path],
    search: str | Path | None,
    by_weights: Mapping[str, RunSummary],
) -> list[Path]:
    folders = [Path(folder).resolve() for folder in given]
    for run in runs:
        folders += sorted(p.parent for p in run.directory.glob(f"evaluation-*/{METRICS_FILE}"))
    if search is not None and Path(search).is_dir():
        for path in sorted(Path(search).resolve().rglob(METRICS_FILE)):
            if read_json(path).get("model", {}).get("weights") in by_weights:
                folders.append(path.parent)
    return list(dict.fromkeys(folders))


def _read_data(run: RunSummary, notes: list[str]) -> DataSummary | None:
    given = run.settings["data"]
    try:
        dataset = open_data(given, [run.data_digest])
        if dataset.data_digest != run.data_digest:
            notes.append(
                f"{dataset.location} no longer holds the data that {run.name} was trained on."
            )
            return None
        elements = _elements(dataset)
    except (ShardError, ConfigError) as error:
        notes.append(f"The data of {run.name} cannot be described: {error}")
        return None
    manifests = [member.manifest for member in members_of(dataset)]

    def each(texts: Iterable[Any]) -> str:
        return "; ".join(dict.fromkeys(str(text) for text in texts if text))

    return DataSummary(
        name=dataset.name,
        digest=dataset.data_digest,
        records=len(dataset),
        skipped=sum(manifest.skipped.count for manifest in manifests),
        elements=elements,
        labels=tuple(dataset.fields.values()),
        recipe=each(manifest.recipe.get("name", "") for manifest in manifests),
        description=each(manifest.recipe.get("description", "") for manifest in manifests),
        licence=each(manifest.licence for manifest in manifests),
        citation=each(manifest.citation for manifest in manifests),
    )


def _elements(dataset: Data) -> tuple[str, ...]:
    present = np.zeros(len(SYMBOLS), dtype=bool)
    for first in range(0, len(dataset), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(dataset)))
        present |= dataset.label_table(rows).composition.any(axis=0)
    return tuple(SYMBOLS[number] for number in np.flatnonzero(present))


def _labels(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the labels with a validation metric that the data set has."""
    names = (name.removeprefix("val/").removesuffix("_mae") for name in run["units"])
    return tuple(dict.fromkeys(name for name in names if name in run["fields"]))


def _verb(folder: Path, settings: Mapping[str, Any]) -> str:
    """Returns which verb made a run: the saved configuration of a fine-tune says how."""
    path = folder / CONFIG
    if path.is_file():
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return "finetune" if "finetune" in config else "pretrain"
    return "finetune" if settings["init"].get("model") else "pretrain"


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
