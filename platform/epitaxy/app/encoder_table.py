"""The verb ``encoders``: every encoder that can be configured, with what it reads and costs."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from epitaxy.app.components import check_components
from epitaxy.app.compose import every_option
from epitaxy.app.encoder_cost import PER_ATOMS, edges_per_atom, gflop, milliseconds
from epitaxy.app.paths import output_file
from epitaxy.app.tables import columns
from epitaxy.build import build
from epitaxy.encoders.taps import Tap
from epitaxy.errors import ConfigError, EpitaxyError
from epitaxy.graph.spec import GraphSpec
from epitaxy.report.page import write_page

logger = logging.getLogger(__name__)

PROVIDES = {
    "node": ("N", "states of atoms"),
    "graph": ("C", "crystal vector"),
    "vector": ("V", "vectors of atoms"),
    "position_grad": ("F", "forces and stress of its energies"),
}
INVARIANCES = {
    "rotation": ("R", "rotation"),
    "translation": ("T", "translation"),
    "permutation": ("P", "order of atoms"),
    "supercell": ("S", "supercell"),
    "unit_cell": ("U", "choice of cell"),
    "smooth_cutoff": ("C", "smooth at the cutoff"),
}
TAPS = {
    "edges": ("E", "edges"),
    "angles": ("G", "angles"),
    "atoms": ("A", "atoms"),
    "features": ("F", "element features"),
}
ENDINGS = (".csv", ".json", ".md")
_TITLES = {
    "name": "encoder",
    "graph": "graph",
    "parameters": "parameters",
    "provides": "provides",
    "invariances": "holds",
    "taps": "weighs",
    "edges_per_atom": "edges/atom",
    "gflop": "GFLOP",
    "forward_ms": "forward",
    "forward_backward_ms": "+ backward",
}
_TIMES = ("forward_ms", "forward_backward_ms")
_DECIMALS = {"edges_per_atom": 1, "gflop": 2}
_WORDS = ("name", "graph", "provides", "invariances", "taps")
_CRYSTAL = "cubic BaTiO3, a = 4.0 Å, 40 atoms, for all"
_GFLOP = f"of a forward pass for {PER_ATOMS:,} atoms, scaled from 40; products of matrices only"
_TIMED = f"ms for {PER_ATOMS:,} atoms, scaled from 200, on one CPU thread; + backward: both passes"


@dataclass(frozen=True)
class EncoderRow:
    """One configuration of the group ``encoder``.

    Attributes:
        name: What ``encoder=`` takes.
        graph: The graph it reads, in short words.
        parameters: Number of trainable numbers, ``None`` if it cannot be built.
        provides: What heads and objectives may ask of it.
        invariances: What holds in eval mode.
        taps: What ``epitaxy explain`` can read off: weights over edges, angles, atoms or features.
        edges_per_atom: Directed edges of cubic BaTiO3 (a = 4.0 Å) for each atom.
        gflop: 10⁹ operations of a forward pass for 1,000 atoms of it, products of matrices only.
        forward_ms: Milliseconds of a forward pass for 1,000 atoms on one thread; ``None`` unless
            measured.
        forward_backward_ms: The same with gradients of all weights.
        remark: What is special, or why something is missing.
    """

    name: str
    graph: str = ""
    parameters: int | None = None
    provides: tuple[str, ...] = ()
    invariances: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    edges_per_atom: float | None = None
    gflop: float | None = None
    forward_ms: float | None = None
    forward_backward_ms: float | None = None
    remark: str = ""


def list_encoders(config: Mapping[str, Any], config_dirs: Sequence[str] = ()) -> list[EncoderRow]:
    """Returns a row for every encoder, and writes them to ``out`` if that is given.

    Raises:
        ConfigError: If ``only`` names an unknown encoder, or the ending of ``out`` is unknown.
    """
    out = output_file(config["out"], ENDINGS)
    only = [config["only"]] if isinstance(config["only"], str) else config["only"]
    found = every_option("encoder", config_dirs, only)
    rows = [describe(name, one, timed=bool(config["time"])) for name, one in found.items()]
    if out is not None:
        write_page(_FORMATS[out.suffix.lower()](rows), out)
        logger.info("written to %s", out)
    return rows


def describe(name: str, config: Mapping[str, Any], *, timed: bool = False) -> EncoderRow:
    """Returns the row of one configuration; ``remark`` says what could not be had.

    Args:
        name: Of the configuration.
        config: ``_target_`` and arguments.
        timed: Whether to measure times.
    """
    try:
        encoder = build_encoder(config)
    except EpitaxyError as error:
        return EncoderRow(name, remark=str(error))
    row: dict[str, Any] = {
        "graph": graph_words(encoder.spec, getattr(encoder, "angle_cutoff", None)),
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "provides": _ordered(encoder.provides, PROVIDES),
        "invariances": _ordered(encoder.invariances, INVARIANCES),
        "taps": _ordered({tap.over for tap in encoder.modules() if isinstance(tap, Tap)}, TAPS),
        "edges_per_atom": edges_per_atom(encoder),
    }
    if encoder.spec.rule == "composition":
        row["remark"] = "reads the 3 elements of BaTiO3 in place of 40 atoms"
    try:
        row["gflop"] = gflop(encoder)
        if timed:
            row |= dict(zip(_TIMES, milliseconds(encoder), strict=True))
    except EpitaxyError as error:
        row["remark"] = str(error)
    return EncoderRow(name, **row)


def build_encoder(config: Mapping[str, Any]) -> Any:
    """Returns the encoder of a configuration, with the same random weights every time.

    Raises:
        ConfigError: If an argument is missing or does not fit.
    """
    for key, value in config.items():
        if value == "???":
            raise ConfigError(f"its configuration leaves {key} to you: encoder.{key}=…")
    check_components(config, "encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config)


def with_taps(config_dirs: Sequence[str] = ()) -> list[str]:
    """Returns the names of the encoders whose weights can be read off."""
    found = []
    for name, config in every_option("encoder", config_dirs).items():
        try:
            encoder = build_encoder(config)
        except EpitaxyError:
            continue  # `epitaxy encoders` says why
        if any(isinstance(part, Tap) for part in encoder.modules()):
            found.append(name)
    return found


def graph_words(spec: GraphSpec, angle_cutoff: float | None = None) -> str:
    """Returns a graph rule in short words, such as ``12 nearest in 8 Å, padded``."""
    radius, most = f"{spec.cutoff:g} Å", spec.max_neighbors
    words = {
        "radius": f"radius {radius}" if most is None else f"{most} nearest in {radius}",
        "nearest": f"{most} nearest in {radius}",
        "shell": f"shell of {most}",
        "minimum_image": f"minimum images in {radius}",
        "composition": "composition",
    }[spec.rule]
    if spec.padded:
        words += ", padded"
    if most is not None and spec.ties == "keep":
        words += ", ties kept"
    if spec.max_images is not None:
        words += f", {spec.max_images} images"
    if spec.line_graph:
        words += ", angles" if angle_cutoff is None else f", angles {angle_cutoff:g} Å"
    return words


def table(rows: Sequence[EncoderRow]) -> str:
    """Returns the rows for a terminal, with a legend of the letters and the remarks below."""
    names = _shown(rows)
    cells = [[_TITLES[name] for name in names], *([_cell(row, n) for n in names] for row in rows)]
    lines = [columns(_aligned(cells, names)), "", *_legend(timed=_TIMES[0] in names)]
    if remarks := [(row.name, row.remark) for row in rows if row.remark]:
        lines += ["", columns([("remarks", ""), *remarks])]
    return "\n".join(lines)


def _markdown(rows: Sequence[EncoderRow]) -> str:
    names = _shown(rows)
    remarks = any(row.remark for row in rows)
    head = [_TITLES[name] for name in names] + ["remark"] * remarks
    lines = [head, ["---" if name in _WORDS else "---:" for name in names] + ["---"] * remarks]
    lines += [[_cell(row, name) for name in names] + [row.remark] * remarks for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    legend = "\n".join(f"- {line}" for line in _legend(timed=_TIMES[0] in names))
    return f"{text}\n\n{legend}\n"


def _csv(rows: Sequence[EncoderRow]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(field.name for field in fields(EncoderRow))
    for row in rows:
        values = asdict(row).values()
        writer.writerow(" ".join(v) if isinstance(v, tuple) else v for v in values)
    return stream.getvalue()


def _json(rows: Sequence[EncoderRow]) -> str:
    notes = {"crystal": _CRYSTAL, "gflop": _GFLOP, "forward_ms": _TIMED}
    content = {**notes, "encoders": [asdict(row) for row in rows]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


_FORMATS = dict(zip(ENDINGS, (_csv, _json, _markdown), strict=True))


def _shown(rows: Sequence[EncoderRow]) -> list[str]:
    """Returns the columns; times only if one was measured."""
    timed = any(row.forward_ms is not None for row in rows)
    return [name for name in _TITLES if timed or name not in _TIMES]


def _cell(row: EncoderRow, name: str) -> str:
    value = getattr(row, name)
    letters = {"provides": PROVIDES, "invariances": INVARIANCES, "taps": TAPS}
    if name in letters:
        return _letters(value, letters[name]) if row.graph else ""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.{_DECIMALS.get(name, 0)}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _letters(held: Sequence[str], known: Mapping[str, tuple[str, str]]) -> str:
    """Returns a letter for each property that holds and a dot for each other, in fixed places."""
    return "".join(letter if name in held else "·" for name, (letter, _) in known.items())


def _aligned(cells: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    """Returns the cells with numbers flush right, as ``columns`` keeps them."""
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    return [
        [
            text if name in _WORDS else text.rjust(width)
            for text, name, width in zip(line, names, widths, strict=True)
        ]
        for line in cells
    ]


def _legend(*, timed: bool) -> list[str]:
    def spelt(known: Mapping[str, tuple[str, str]]) -> str:
        return ", ".join(f"{letter} {words}" for letter, words in known.values())

    entries = [
        ("provides", spelt(PROVIDES)),
        ("holds", spelt(INVARIANCES)),
        ("weighs", f"{spelt(TAPS)}: what `epitaxy explain` shows"),
        ("edges", f"of {_CRYSTAL}"),
        ("GFLOP", _GFLOP),
    ]
    return [f"{name:<8}  {text}" for name, text in (*entries, *[("forward", _TIMED)] * timed)]


def _ordered(held: Any, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what holds, in the order of the legend; what that does not know comes last."""
    return tuple(name for name in known if name in held) + tuple(sorted(set(held) - set(known)))
