"""The actions of ``epitaxy data``: each takes its configuration and says what it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.app.compose import compose
from epitaxy.app.data_help import ACTIONS
from epitaxy.app.data_text import manifest_text, merge_text, splits_text
from epitaxy.app.paths import absolute, absolute_output
from epitaxy.app.readers import MAX_READERS, readers, source_uri
from epitaxy.app.tables import columns
from epitaxy.data.dataset import Dataset
from epitaxy.data.staging import replacing
from epitaxy.errors import ConfigError, closest


@dataclass(frozen=True)
class Done:
    """What an action found or wrote.

    Attributes:
        text: For a terminal.
        value: For a program.
    """

    text: str
    value: Any


def run(action: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Done:
    """Runs an action.

    Raises:
        ConfigError: If there is no such action or option.
        EpitaxyError: Whatever the action raises.
    """
    if action not in ACTIONS:
        raise ConfigError(f"no data action {action!r}; {closest(action, ACTIONS)}")
    return _RUN[action](compose(f"data/{action}", overrides, config_dirs).require())


def _inspect(config: dict[str, Any]) -> Done:
    from epitaxy.data.survey import survey

    if (config["source"] is None) == (config["data"] is None):
        raise ConfigError("data inspect needs either source=FILE or data=FOLDER")
    if config["data"] is not None:
        dataset = _dataset(config)
        return Done(manifest_text(dataset), dataset.manifest)
    found = survey(absolute(str(config["source"])))
    table = columns([("key in the first record", "what stands there"), *found.keys.items()])
    text = f"{table}\n\nrecipe to start from (replace every ???):\n\n{found.draft}"
    if config["out"] is not None:
        out = Path(absolute_output(str(config["out"]), "out"))
        if out.exists():
            raise ConfigError(f"{out} exists already; choose another out=")
        out.write_text(found.draft, encoding="utf-8")
        text += f"\nwritten to {out}"
    return Done(text, found)


def _verify(config: dict[str, Any]) -> Done:
    dataset = _dataset(config)
    dataset.verify(workers=_workers(config), progress=True)
    shards = len(dataset.manifest.shards)
    text = f"{len(dataset)} records in {shards} shards are intact; {dataset.data_digest[:16]}"
    return Done(text, dataset.manifest)


def _stats(config: dict[str, Any]) -> Done:
    from epitaxy.data.statistics import describe
    from epitaxy.report.card import write_card

    dataset = _dataset(config)
    sample = None if config["sample"] is None else int(config["sample"])
    statistics = describe(dataset, sample=sample)
    text = statistics.text()
    if config["out"] is not None:
        path = absolute_output(str(config["out"]), "out")
        out = write_card(dataset.path, path, statistics=statistics)
        text += f"\n\ncard {out}"
    return Done(text, statistics)


def _convert(config: dict[str, Any]) -> Done:
    from epitaxy.data.rewrite import rewrite

    dataset = _dataset(config)
    manifest = rewrite(
        dataset,
        absolute_output(str(config["out"]), "out"),
        format=config["format"],
        rows=_rows(dataset, config["split"]),
        symmetry=bool(config["symmetry"]),
        fingerprint=config["fingerprint"],
        workers=_workers(config),
        overwrite=bool(config["overwrite"]),
        resume=bool(config["resume"]),
    )
    text = f"{manifest.num_records} records as {manifest.storage}, {manifest.data_digest[:16]}"
    return Done(text, manifest)


def _append(config: dict[str, Any]) -> Done:
    from epitaxy.data.append import append, unassigned
    from epitaxy.data.recipe import load_recipe

    data = absolute(str(config["data"]))
    before = len(_dataset(config))
    with readers(config) as workers:
        manifest = append(
            data,
            source_uri(config["source"]),
            recipe=load_recipe(str(config["recipe"])),
            on_error=config["on_error"],
            checks=config["checks"],
            symmetry=bool(config["symmetry"]),
            fingerprint=config["fingerprint"],
            workers=workers,
            backend=config["compute"],
            resume=bool(config["resume"]),
        )
    added = manifest.num_records - before
    lines = [
        f"{added} records added: version {manifest.version} has {manifest.num_records}, data "
        f"digest {manifest.data_digest[:16]}"
    ]
    for name, count in unassigned(Dataset.open(data)).items():
        lines.append(f"the split {name!r} leaves {count} records out; store it anew to deal them")
    return Done("\n".join(lines), manifest)


def _copy(config: dict[str, Any]) -> Done:
    from epitaxy.data.copying import copy_data_set

    out = absolute_output(str(config["out"]), "out")
    source = absolute(str(config["data"]))
    manifest = copy_data_set(source, out, overwrite=bool(config["overwrite"]))
    return Done(f"{manifest.num_records} records copied to {out}", manifest)


def _export(config: dict[str, Any]) -> Done:
    from epitaxy.data.export import export_extxyz, export_pyg

    dataset = _dataset(config)
    rows = _rows(dataset, config["split"])
    out = Path(absolute_output(str(config["out"]), "out"))
    if config["format"] == "extxyz":
        if config["cutoff"] is not None:
            raise ConfigError("cutoff= is for format=pyg: extended XYZ holds no edges")
        count = export_extxyz(dataset, out, rows)
    elif config["format"] == "pyg":
        cutoff = None if config["cutoff"] is None else float(config["cutoff"])
        count = export_pyg(dataset, out, rows, cutoff=cutoff)
    else:
        formats = ("extxyz", "pyg")
        raise ConfigError(
            f"no export format {config['format']!r}; {closest(str(config['format']), formats)}"
        )
    return Done(f"{count} records written to {out}", out)


def _split(config: dict[str, Any]) -> Done:
    from epitaxy.data.split_files import list_splits

    dataset = _dataset(config)
    if config["name"] is None:
        names = list_splits(dataset)
        return Done(splits_text(dataset) or f"{dataset.path} has no stored split", names)
    if config["property"] is not None or config["subsets"] is not None:
        paths = _subsets(dataset, config)
    else:
        paths = [_store(dataset, config)]
    text = splits_text(dataset, [path.stem for path in paths])
    return Done(f"{text}\n{len(paths)} splits stored in {paths[0].parent}", paths)


def _rule(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``make_split`` that the user set."""
    names: tuple[str, ...] = ("by", "fractions", "sizes", "seed", "time")
    if config["file"] is not None and config["property"] is None:
        names = ("by", "file", "task", "fold", "val_fraction", "missing", "seed")
    return {name: config[name] for name in names if config[name] is not None}


def _store(dataset: Dataset, config: dict[str, Any]) -> Path:
    from epitaxy.data.splits import store_split

    rule = _rule(config)
    if "file" in rule:
        rule["file"] = absolute(str(rule["file"]))
    if rule["by"] == "structure":
        from epitaxy.data.duplicates import structure_keys

        rule["keys"] = structure_keys(dataset, cache=_cache(config))
    return store_split(dataset, config["name"], rule, overwrite=bool(config["overwrite"]))


def _subsets(dataset: Dataset, config: dict[str, Any]) -> list[Path]:
    from epitaxy.data.subsets import import_subsets, make_subsets

    name, overwrite = str(config["name"]), bool(config["overwrite"])
    if config["property"] is not None:
        if config["file"] is None:
            raise ConfigError("published subsets need file=…, the file that lists their ids")
        return import_subsets(
            dataset,
            absolute(str(config["file"])),
            str(config["property"]),
            str(config["prefix"] or ""),
            name=name,
            base=config["base"],
            overwrite=overwrite,
        )
    if config["base"] is None and config["by"] == "structure":
        raise ConfigError("store the split by structure under a name first, then give base=NAME")
    if config["label"] is None:
        raise ConfigError("subsets need label=…, the label that their records must have")
    return make_subsets(
        dataset,
        name,
        label=str(config["label"]),
        sizes=[int(size) for size in _listed(config["subsets"])],
        trials=int(config["trials"]),
        sampling=config["sampling"],
        base=_rule(config) if config["base"] is None else config["base"],
        seed=int(config["seed"]),
        overwrite=overwrite,
    )


def _overlap(config: dict[str, Any]) -> Done:
    from epitaxy.data.overlap import exclude_list, overlap, write_exclude_list

    first = _dataset(config)
    alone = config["other"] is None
    report = overlap(
        first,
        None if alone else _dataset(config, "other"),
        first_splits=_parts(first, config["split"] or ("*" if alone else None)),
        second_splits=None if alone else _parts(_dataset(config, "other"), config["other_split"]),
        level=config["level"],
        cache=_cache(config),
        progress=True,
    )
    text = report.table()
    if config["exclude"] is not None:
        path = Path(absolute_output(str(config["exclude"]), "exclude"))
        ids = exclude_list(report)
        with replacing(path) as temporary:
            write_exclude_list(temporary, ids)
        text += f"\n{len(ids)} ids to exclude written to {path}"
    if config["out"] is not None:
        out = Path(absolute_output(str(config["out"]), "out"))
        content = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
        with replacing(out) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
        text += f"\nreport {out}"
    return Done(text, report)


def _merge(config: dict[str, Any]) -> Done:
    from epitaxy.data.merge import merge

    datasets = [Dataset.open(absolute(str(path))) for path in _listed(config["data"])]
    out = absolute_output(str(config["out"]), "out")
    report = merge(
        datasets,
        out,
        by=config["by"],
        conflicts=config["conflicts"],
        schemes=config["schemes"],
        tolerance=float(config["tolerance"]),
        cache=_cache(config),
        format=config["format"],
        overwrite=bool(config["overwrite"]),
    )
    return Done(f"{merge_text(report)}\nmerged data set {out}", report)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _cache(config: dict[str, Any]) -> Path:
    return Path(str(config["home"])) / "cache" / "fingerprints"


def _workers(config: dict[str, Any]) -> int:
    return int(config["workers"] or min(os.cpu_count() or 1, MAX_READERS))


def _dataset(config: dict[str, Any], key: str = "data") -> Dataset:
    return Dataset.open(absolute(str(config[key])))


def _parts(dataset: Dataset, split: str | None) -> dict[str, np.ndarray] | None:
    """Returns parts of a data set by name: ``NAME`` all parts of a stored split, ``NAME:test`` one.

    ``train``, ``val`` and ``test`` alone are parts of the split that training deals by default,
    ``*`` is all of it.
    """
    from epitaxy.data.split_rules import SPLITS
    from epitaxy.data.splits import make_split

    if not split:
        return None
    name, _, part = str(split).partition(":")
    if name in (*SPLITS, "*") and not part:
        name, part = "", name.removeprefix("*")
    rows = make_split(dataset, name=name or None).rows
    if part and part not in rows:
        raise ConfigError(f"split={split}: {closest(part, rows)}")
    return {key: value for key, value in rows.items() if part in ("", key)}


def _rows(dataset: Dataset, split: str | None) -> np.ndarray | None:
    parts = _parts(dataset, split)
    return None if parts is None else np.sort(np.concatenate(list(parts.values())))


_RUN: dict[str, Callable[[dict[str, Any]], Done]] = {
    "inspect": _inspect,
    "verify": _verify,
    "append": _append,
    "copy": _copy,
    "stats": _stats,
    "merge": _merge,
    "split": _split,
    "overlap": _overlap,
    "convert": _convert,
    "export": _export,
}
