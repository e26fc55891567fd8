"""Several data sets become one, with every label of a structure in one record.

``by="structure"`` unites records whose structures are the same (``epitaxy.data.duplicates``, level
``same``), within a set as well as across sets; ``by="id"`` unites equal ids; ``by="none"`` puts the
sets one behind the other. What became of every record is written beside the data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.duplicates import Union, buckets, find_duplicates, load_fingerprints
from epitaxy.data.fingerprint import VERSION, Fingerprints, formula_of
from epitaxy.data.unite import Member, MergeReport, Rule, fitting, unite
from epitaxy.errors import ConfigError, RecordError, closest
from epitaxy.graph.record import AMOUNT, CrystalRecord, LabelField

PROVENANCE = "merged.jsonl"
"""File that says, for each record, which records of which data sets it was made from."""

By = Literal["structure", "id", "none"]
Schemes = Literal["refuse", "keep_first"]

TOLERANCE = 1e-3
"""Relative difference up to which two values of one label agree."""

_READ_BLOCK = 256
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "by": ("structure", "id", "none"),
    "conflicts": ("first", "mean", "error"),
    "schemes": ("refuse", "keep_first"),
}


def merge(
    datasets: Sequence[Dataset],
    out: str | Path,
    *,
    by: By = "structure",
    conflicts: Rule = "first",
    schemes: Schemes = "refuse",
    tolerance: float = TOLERANCE,
    cache: str | Path | None = None,
    format: Literal["lmdb", "zarr"] = "lmdb",
    overwrite: bool = False,
    progress: bool = True,
) -> MergeReport:
    """Writes the merged data set ``out``, and in it ``merged.jsonl``.

    Arguments and errors are those of ``Merge`` and ``prepare``.
    """
    merged = Merge(
        datasets,
        by=by,
        conflicts=conflicts,
        schemes=schemes,
        tolerance=tolerance,
        cache=cache,
        progress=progress,
    )
    prepare(
        merged,
        out,
        format=format,
        checks="off",  # labels were checked when they were imported
        overwrite=overwrite,
        progress=progress,
        provenance=merged.manifest_fields(),
    )
    merged.write_provenance(Path(out))
    return merged.report


class Merge:
    """The merged records of several data sets, as an iterable that ``prepare`` takes.

    A record made from several has the structure and the id of the first; an id that another record
    has already gets the name of its data set in front. Groups that such a record connects become
    one, so that no split by group tears them apart; groups of one name are one group.

    Args:
        datasets: Data sets in order of precedence.
        by: What makes records one: the ``structure``, the ``id``, or ``none``.
        conflicts: What a label is where its values disagree: the ``first``, the ``mean``, or an
            ``error``.
        schemes: Whether a label with another scheme, unit or shape in a later data set is refused,
            or left out and counted (``keep_first``).
        tolerance: Relative difference up to which two values agree.
        cache: Folder that keeps fingerprints between calls.
        progress: Whether to show progress bars (on a terminal).

    Attributes:
        report: Numbers of the last pass over the records.
        provenance: A line for each record of that pass.

    Raises:
        ConfigError: If an argument is wrong, or labels do not fit together.
        RecordError: If one id stands for two formulas.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        *,
        by: By = "structure",
        conflicts: Rule = "first",
        schemes: Schemes = "refuse",
        tolerance: float = TOLERANCE,
        cache: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        for name, value in (("by", by), ("conflicts", conflicts), ("schemes", schemes)):
            if value not in _CHOICES[name]:
                raise ConfigError(f"merge: {name} is {value!r}; {closest(value, _CHOICES[name])}")
        if not datasets or not tolerance >= 0:
            raise ConfigError("merge needs at least one data set and a tolerance of at least 0")
        self._datasets = datasets
        self._settings = {"by": by, "conflicts": conflicts, "schemes": schemes}
        self._rule: Rule = conflicts
        self._tolerance = tolerance
        self._names = _names(datasets)
        self._fields = _fields(dict(zip(self._names, datasets, strict=True)), schemes)
        self._starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        self._clusters = self._unite(by, cache, progress)
        self._groups = _groups(datasets, self._clusters)
        self.report = MergeReport()
        self.provenance: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[CrystalRecord]:
        """Yields the merged records, in the order of their first sources."""
        sizes = [len(dataset) for dataset in self._datasets]
        self.report = MergeReport(dict(zip(self._names, sizes, strict=True)))
        self.provenance = []
        used: set[str] = set()
        for start in range(0, len(self._clusters), _READ_BLOCK):
            block = self._clusters[start : start + _READ_BLOCK]
            members = self._read(np.concatenate(block))
            for cluster in block:
                parts = fitting([members[row] for row in cluster.tolist()])
                self.report.kept_apart += len(parts) - 1
                for part in parts:
                    yield self._record(part, used)

    def manifest_fields(self) -> dict[str, Any]:
        """Returns what the manifest of the merged data set says about its origin."""
        manifests = [dataset.manifest for dataset in self._datasets]
        merged = [
            {"name": name, "records": manifest.num_records, "data_digest": manifest.data_digest}
            for name, manifest in zip(self._names, manifests, strict=True)
        ]
        settings = {**self._settings, "tolerance": self._tolerance, "fingerprint_version": VERSION}
        return {
            "source": {"uri": "", "files": [], "merged": merged, "settings": settings},
            "licence": "; ".join(dict.fromkeys(m.licence for m in manifests if m.licence)),
            "citation": "\n".join(dict.fromkeys(m.citation for m in manifests if m.citation)),
        }

    def write_provenance(self, folder: Path) -> None:
        """Writes ``merged.jsonl``: one line per record of the last pass, in their order."""
        with (folder / PROVENANCE).open("w", encoding="utf-8") as stream:
            for line in self.provenance:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _unite(
        self, by: By, cache: str | Path | None, progress: bool
    ) -> list[Int64[np.ndarray, " members"]]:
        """Returns which records become one, as places in the data sets one behind the other."""
        union = Union(int(self._starts[-1]))
        if by == "structure":
            parts = [
                load_fingerprints(dataset, cache=cache, progress=progress)
                for dataset in self._datasets
            ]
            clusters = find_duplicates(Fingerprints.join(parts))
        elif by == "id":
            ids = np.concatenate([dataset.ids for dataset in self._datasets])
            clusters = [rows for rows in buckets(ids).values() if len(rows) > 1]
            self._check_formulas(clusters)
        else:
            clusters = []
        for cluster in clusters:
            union.join(np.full(len(cluster), cluster[0]), cluster)
        return union.clusters()

    def _check_formulas(self, clusters: Sequence[np.ndarray]) -> None:
        for start in range(0, len(clusters), _READ_BLOCK):
            block = clusters[start : start + _READ_BLOCK]
            members = self._read(np.concatenate(block))
            for cluster in block:
                found = [members[row] for row in cluster.tolist()]
                formulas = [formula_of(member.record) for member in found]
                if len(set(formulas)) > 1:
                    told = ", ".join(
                        f"{formula} in {member.dataset}"
                        for formula, member in zip(formulas, found, strict=True)
                    )
                    raise RecordError(
                        f"id {found[0].record.id!r} is {told}: these data sets do not share their "
                        "ids; merge by structure"
                    )

    def _read(self, places: np.ndarray) -> dict[int, Member]:
        members = {}
        for number, dataset in enumerate(self._datasets):
            first, last = self._starts[number], self._starts[number + 1]
            inside = places[(places >= first) & (places < last)]
            for place, blob in zip(inside.tolist(), dataset.read(inside - first), strict=True):
                members[place] = Member(self._names[number], decode(blob))
        return members

    def _record(self, members: Sequence[Member], used: set[str]) -> CrystalRecord:
        head = members[0]
        identity = _free_id(head, used)
        used.add(identity)
        record = unite(
            members, identity, self._fields, self._rule, self._tolerance, self.report
        ).replace(group=self._groups[head.record.group])
        self.report.records += 1
        self.report.united += len(members) > 1
        self.report.renamed += identity != head.record.id
        sources = [
            {
                "dataset": member.dataset,
                "id": member.record.id,
                "labels": sorted(set(member.record.labels) - {AMOUNT}),
            }
            for member in members
        ]
        self.provenance.append({"id": identity, "from": sources})
        return record


def _free_id(member: Member, used: set[str]) -> str:
    identity = member.record.id
    if identity in used:
        identity = f"{member.dataset}-{identity}"
    again = 2
    while identity in used:
        identity = f"{member.dataset}-{member.record.id}-{again}"
        again += 1
    return identity


def _names(datasets: Sequence[Dataset]) -> list[str]:
    """Returns the name of each data set's folder; of two alike, the second gets a number."""
    names: list[str] = []
    for dataset in datasets:
        name, again = dataset.path.name, 2
        while name in names:
            name, again = f"{dataset.path.name}-{again}", again + 1
        names.append(name)
    return names


def _fields(datasets: Mapping[str, Dataset], schemes: Schemes) -> dict[str, LabelField]:
    """Returns what each label looks like in the first data set that has it."""
    fields: dict[str, LabelField] = {}
    owner: dict[str, str] = {}
    for dataset_name, dataset in datasets.items():
        for name, found in dataset.fields.items():
            known = fields.setdefault(name, found)
            owner.setdefault(name, dataset_name)
            if known != found and schemes == "refuse":
                raise ConfigError(
                    f"label {name!r} is not one label: {_described(known)} in {owner[name]}, "
                    f"{_described(found)} in {dataset_name}; rename one, or keep only those of the "
                    "first with schemes=keep_first"
                )
    return fields


def _described(label: LabelField) -> str:
    shape = f", shape {label.shape}" if label.shape else ""
    per_atom = ", per atom" if label.per_atom else ""
    return f"unit {label.unit!r}, scheme {label.scheme!r}{shape}{per_atom}"


def _groups(datasets: Sequence[Dataset], clusters: Sequence[np.ndarray]) -> dict[str, str]:
    """Returns the new name of every group: the first of those that united records connect."""
    groups = np.concatenate([dataset.groups for dataset in datasets])
    names, first, number_of = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # so that the smallest number is the earliest name
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    union = Union(len(names))
    for cluster in clusters:
        if len(cluster) > 1:
            linked = rank[number_of[cluster]]
            union.join(np.full(len(linked), linked[0]), linked)
    return {str(names[order[k]]): str(names[order[union.find(k)]]) for k in range(len(names))}
