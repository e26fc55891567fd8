"""The verb ``explain``: what a model weighs in some structures, as tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import epitaxy
from epitaxy.app.encoder_table import with_taps
from epitaxy.app.models import SourceModel, find_model
from epitaxy.app.paths import absolute_output
from epitaxy.app.structures import Chosen, choose
from epitaxy.app.tables import columns, number
from epitaxy.data.fingerprint import formula_of
from epitaxy.errors import ConfigError, NeedsError
from epitaxy.graph.symbols import SYMBOLS
from epitaxy.predict.explain import Explained, Explanation, explain, has_taps
from epitaxy.predict.explain_tables import write_tables
from epitaxy.predict.predictor import Predictor
from epitaxy.report.drawing import pretty_name, pretty_unit
from epitaxy.report.explain_plots import mask_picture, picture
from epitaxy.train.folders import read_json, write_folder, write_json

SUMMARY, MASK_PICTURE = "summary.json", "features.png"
FORMAT = 1
_KIND = "explanation"
_LONGEST_NAME = 40


@dataclass(frozen=True)
class ModelExplanation:
    """What the verb returns.

    Attributes:
        explained: The weights.
        directory: Where tables and pictures lie.
        summary: Contents of ``summary.json``.
    """

    explained: Explained
    directory: Path
    summary: Mapping[str, Any]

    def text(self) -> str:
        """Returns a line for each structure, and how many there would have been."""
        labels = list(self.summary["units"])
        units = [f" ({unit})" if unit else "" for unit in self.summary["units"].values()]
        head = [f"{name}{unit}" for name, unit in zip(labels, units, strict=True)]
        rows = [["structure", "formula", "atoms", "edges", *head, "picture"]]
        for entry in self.summary["structures"]:
            told = [number(entry["predicted"].get(label, "–")) for label in labels]
            edges = "–" if entry["edges"] is None else str(entry["edges"])
            rows.append(
                [entry["id"], entry["formula"], str(entry["atoms"]), edges, *told, entry["picture"]]
            )
        tables = ", ".join(self.summary["tables"])
        return f"{columns(rows)}\n{self.summary['chosen']}\ntables {tables}"


def run_explanation(config: Mapping[str, Any], config_dirs: Sequence[str] = ()) -> ModelExplanation:
    """Reads off what a model weighs and writes it to the folder ``out``.

    Raises:
        NeedsError: If its encoder has nothing to show; the message names encoders that have.
        ConfigError: If the options contradict one another, or ``out`` holds other things.
    """
    out = _check_out(Path(absolute_output(str(config["out"]), "out")))
    model = find_model(str(config["model"]), config, config["trust"])
    # find_model has checked the model's code against what the user trusts.
    predictor = Predictor(model.folder, trusted_only=not config["trust"])
    encoder: Any = predictor.encoder
    if not has_taps(encoder):
        raise NeedsError(
            f"the encoder of {config['model']}, {type(encoder).__name__}, has no attention, gates "
            f"or mask to show; these have: {', '.join(with_taps(config_dirs))} (`epitaxy encoders`)"
        )
    chosen = choose(config)
    explained = explain(encoder, chosen.records)
    predicted = _predictions(predictor, chosen)
    name = model.identity.get("reference") or str(model.card.get("name") or model.folder.name)
    summary = _summary(model, name, chosen, explained, predicted, predictor.units)
    write_folder(out, lambda folder: _fill(folder, explained, summary, name))
    return ModelExplanation(explained, out, summary)


def _fill(folder: Path, explained: Explained, summary: dict[str, Any], model: str) -> None:
    summary["tables"] = write_tables(explained, folder)
    for crystal, entry in zip(explained.crystals, summary["structures"], strict=True):
        if crystal.edges is None and crystal.pooled is None:
            entry["picture"] = ""
            continue
        title = _title(entry, summary["units"])
        drawn = picture(crystal, title, f"model {model}", explained.names)
        (folder / entry["picture"]).write_bytes(drawn)
    if explained.features:
        (folder / MASK_PICTURE).write_bytes(mask_picture(explained.features))
    write_json(folder / SUMMARY, summary)


def _summary(
    model: SourceModel,
    name: str,
    chosen: Chosen,
    explained: Explained,
    predicted: Sequence[Mapping[str, float]],
    units: Mapping[str, str],
) -> dict[str, Any]:
    known = {label for values in predicted for label in values}
    digits = len(str(len(explained.crystals)))
    structures = [
        _entry(crystal, values, f"{place + 1:0{digits}d}")
        for place, (crystal, values) in enumerate(zip(explained.crystals, predicted, strict=True))
    ]
    return {
        "format": FORMAT,
        "kind": _KIND,
        "epitaxy": epitaxy.__version__,
        "model": {"name": name, "folder": str(model.folder), **model.identity},
        "encoder": model.card["encoder"],
        "weights": dict(explained.names),
        "envelope": any(c.edges is not None and c.edges.envelope is not None
                        for c in explained.crystals),
        "chosen": chosen.note,
        "units": {label: unit for label, unit in units.items() if label in known},
        "structures": structures,
    }  # fmt: skip


def _entry(crystal: Explanation, predicted: Mapping[str, float], place: str) -> dict[str, Any]:
    record, edges = crystal.record, crystal.edges
    entry: dict[str, Any] = {
        "id": record.id,
        "formula": formula_of(record),
        "atoms": record.num_atoms,
        "edges": None if edges is None else len(edges),
        "predicted": dict(predicted),
        "picture": f"{place}-{_safe(record.id)}.png",
    }
    if edges is not None and len(edges):
        row = int(np.argmax(np.abs(edges.mean)))
        ends = (int(edges.source[row]), int(edges.target[row]))
        entry["strongest_edge"] = {
            "edge": row,
            "elements": [SYMBOLS[record.numbers[atom]] for atom in ends],
            "distance_angstrom": None if edges.distances is None else float(edges.distances[row]),
            "weight": float(edges.mean[row]),
        }
    return entry


def _predictions(predictor: Predictor, chosen: Chosen) -> list[dict[str, float]]:
    """Returns what the model predicts for each structure, of what is a single number."""
    predicted = predictor.predict(chosen.records)
    single = {
        label: values
        for label, values in predicted.items()
        if isinstance(values, np.ndarray) and values.size == len(chosen.records)
    }
    return [
        {label: float(values.reshape(-1)[place]) for label, values in single.items()}
        for place in range(len(chosen.records))
    ]


def _title(entry: Mapping[str, Any], units: Mapping[str, str]) -> str:
    identity = entry["id"]
    if len(identity) > _LONGEST_NAME:
        identity = identity[: _LONGEST_NAME - 1] + "…"
    parts = [identity] if identity == entry["formula"] else [identity, entry["formula"]]
    for label, value in list(entry["predicted"].items())[:1]:
        unit = pretty_unit(units[label])
        parts.append(
            f"predicted {pretty_name(label)} {number(value)} {unit}".rstrip().replace("-", "−")
        )
    return "   ".join(parts)


def _safe(identity: str) -> str:
    """Returns an id as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", identity)[:_LONGEST_NAME].strip("._") or "structure"


def _check_out(out: Path) -> Path:
    """Refuses a folder that holds anything but an earlier explanation, which is replaced."""
    if not out.exists():
        return out
    if out.is_dir() and not any(out.iterdir()):
        return out
    if (out / SUMMARY).is_file() and read_json(out / SUMMARY).get("kind") == _KIND:
        return out
    raise ConfigError(f"out={out} exists and is no earlier explanation; choose another folder")
