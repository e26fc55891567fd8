"""The run folder on the driver: what a run is (``run.json``), who uses it, what came out of it."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import epitaxy
from epitaxy.data.derived import derivable, require_packages, to_derive
from epitaxy.data.fit_table import fit_table
from epitaxy.data.mixture import Data, Mixture, conflicts_of, digests_of, members_of, open_data
from epitaxy.data.order import BLOCK
from epitaxy.errors import CheckpointError, ConfigError, PlanError
from epitaxy.train.folders import read_json, write_json
from epitaxy.train.metrics import metric_units
from epitaxy.train.needs import check_needs
from epitaxy.train.parts import build_parts
from epitaxy.train.settings import RunSettings, to_dict
from epitaxy.train.worker import plans_of

RUN = "run.json"
LOCK = ".lock"
FORMAT = 1
MANY_COMPRESSED = 20_000
"""Records in Zarr shards from which on it matters in which order they are read."""
STATISTICS_RECORDS = 1_000_000
"""Targets are standardised by the statistics of so many training records, an even sample; the
composition of ten million at once would take 10 GB."""
TENSOR_RECORDS = 100_000
"""So many where an objective fits on whole vectors (``fits_on``), read record by record."""
LIBRARIES = ("numpy", "numba", "ray", "safetensors", "torch")
"""Whose versions a run remembers."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a run is, as ``run.json`` stores it.

    Attributes:
        contents: Everything in ``run.json``.
        total_records: Records of all epochs together.
        resumed: Whether the folder held this run already.
    """

    contents: Mapping[str, Any]
    total_records: int
    resumed: bool

    def worker_config(self, settings: RunSettings, *, in_ray: bool) -> dict[str, Any]:
        """Returns what ``train_worker`` needs, as plain data."""
        contents = self.contents
        return {
            "settings": to_dict(settings),
            "plan": contents["plan"],
            "extra": {
                "name": settings.name,
                "statistics": contents["statistics"],
                "fields": contents["fields"],
                "data": contents["data"],
                "split": to_dict(settings.split),
                "lineage": dict(settings.init.lineage),
                **({"teacher": dict(settings.teacher.lineage)} if settings.teacher.model else {}),
                "epitaxy": epitaxy.__version__,
            },
            "identity": {
                "plan": contents["plan"],
                "plan_digest": contents["plan_digest"],
                "science_digest": contents["science_digest"],
            },
            "ray": in_ray,
        }


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder; the lock dies with its holder.

    Raises:
        ConfigError: If another process has it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{run_dir} is in use by another process; wait for it, or choose another run.name"
            ) from error
        yield


def identify(settings: RunSettings) -> Identity:
    """Checks the settings against data, parts and an earlier start, and writes ``run.json``.

    Raises:
        NeedsError: If data, encoder and objective do not fit together.
        ConfigError: If a setting is wrong, or differs from those the run was started with.
        PlanError: If the data is not that the run was started with.
    """
    run_dir = Path(settings.directory)
    stored = read_json(run_dir / RUN) if (run_dir / RUN).is_file() else None
    dataset = open_data(settings.data, digests_of(stored["data"]) if stored else ())
    if stored is not None:
        check_same_run(stored, settings, dataset)
    parts = build_parts(settings)
    encoder, objective = parts.model.encoder, parts.objective
    fields = {**derivable(), **dataset.fields}
    check_needs(settings, fields, encoder, objective, parts.report, conflicts_of(dataset))
    asked = objective.labels
    require_packages(to_derive(dataset, asked))
    _hint_at_blocks(settings, dataset)
    plans, report = plans_of(settings, dataset, encoder.spec)
    plan = plans["train"]
    if not plans["val"].num_records:
        _check_unvalidated(settings)
    if stored is not None:
        plan.check(stored["plan"])
        objective.adopt(stored["statistics"])
        contents = {**stored, "settings": to_dict(settings)}
    else:
        rows = plan.sample(TENSOR_RECORDS if objective.fits_on else STATISTICS_RECORDS)
        table = fit_table(dataset, rows, labels=asked, fits_on=objective.fits_on)
        contents = {
            "format": FORMAT,
            "name": settings.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": _versions(),
            "settings": to_dict(settings),
            "science": settings.science(),
            "science_digest": settings.science_digest(),
            "plan": plan.description,
            "plan_digest": plan.digest,
            "statistics": objective.fit(table),
            "data": _data(dataset),
            "records": report,
            "fields": {n: fields[n].unit for n in dict.fromkeys((*dataset.fields, *asked))},
            "units": metric_units(objective.units, classes=objective.class_counts),
            "strategy": parts.report.to_json(),
        }
    write_json(run_dir / RUN, contents)
    return Identity(contents, plan.num_records * settings.loop.epochs, stored is not None)


def check_same_run(stored: Mapping[str, Any], settings: RunSettings, dataset: Data) -> None:
    """Refuses to continue a run with other science or other data.

    Raises:
        CheckpointError: If a newer version started the run.
        ConfigError: Naming every setting that differs, with both values.
        PlanError: If the data differs.
    """
    if stored.get("format", 0) > FORMAT:
        raise CheckpointError(f"the run {settings.name!r} was started by a newer epitaxy: update")
    if stored["science_digest"] != settings.science_digest():
        then, now = _flat(stored["science"]), _flat(settings.science())
        changes = "; ".join(
            f"{name} was {then.get(name, 'absent')!r}, is {now.get(name, 'absent')!r}"
            for name in sorted(then | now)
            if then.get(name, "absent") != now.get(name, "absent")
        )
        raise ConfigError(
            f"the run {settings.name!r} in {settings.directory} was started with other settings: "
            f"{changes}. Restore them to resume it, or choose another run.name"
        )
    if stored["data"]["digest"] != dataset.data_digest:
        raise PlanError(
            f"the run {settings.name!r} was started on data {stored['data']['digest'][:16]} from "
            f"{stored['data']['path']}; {dataset.location} holds {dataset.data_digest[:16]}. Give "
            "the same data to resume it, or choose another run.name"
        )


def _check_unvalidated(settings: RunSettings) -> None:
    """Refuses what judges validations where there are none."""
    needing = {
        "loop.select=best": (settings.loop.select == "best", "loop.select=last"),
        "loop.patience": (settings.loop.patience > 0, "loop.patience=0"),
        "schedule.name=plateau": (settings.schedule.name == "plateau", "schedule.name=cosine"),
    }
    for name, (needed, remedy) in needing.items():
        if needed:
            raise ConfigError(
                f"{name} needs a validation split, which is empty; change split.*, or set {remedy}"
            )


def _hint_at_blocks(settings: RunSettings, dataset: Data) -> None:
    """Says so if records are about to be read one by one from storage that decodes blocks."""
    compressed = [m for m in members_of(dataset) if m.manifest.storage == "zarr"]
    if settings.batch.shuffle == "records" and sum(map(len, compressed)) > MANY_COMPRESSED:
        logger.warning(
            "%s is stored as Zarr, which decodes %d records at once; batch.shuffle=blocks reads "
            "each of these blocks once per epoch, and LMDB (epitaxy data convert) any record alone",
            ", ".join(member.location for member in compressed), BLOCK,
        )  # fmt: skip


def _data(dataset: Data) -> dict[str, Any]:
    """Returns where the records are and what they are; with several data sets, of each."""
    data: dict[str, Any] = {
        "name": dataset.name,
        "path": dataset.location,
        "digest": dataset.data_digest,
    }
    if isinstance(dataset, Mixture):
        data["members"] = [_data(member) for member in dataset.members]
    return data


def _versions() -> dict[str, str]:
    versions = {"epitaxy": epitaxy.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {name: value}
