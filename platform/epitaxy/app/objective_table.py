"""The verb ``objectives``: every objective that can be configured, and which encoder it trains."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from epitaxy.app.compose import every_option
from epitaxy.app.encoder_table import build_encoder
from epitaxy.app.paths import output_file
from epitaxy.app.tables import columns
from epitaxy.build import build
from epitaxy.encoders.contract import Encoder
from epitaxy.errors import EpitaxyError
from epitaxy.objectives.contract import Objective
from epitaxy.report.page import write_page

logger = logging.getLogger(__name__)

ENDINGS = (".json", ".md")
YES, ONE = "✓", "1"
_LACKS = {"position_grad": "F", "node": "N", "vector": "V", "graph": "C", "composition": "S"}
"""What an encoder lacks, with the letter that the list of encoders has for it."""
_COUPLES = "B"
LEGEND = (
    (YES, "trains on any number of workers"),
    (ONE, "batch norm: one worker and batch.micro_batches=1, or encoder.norm=sync_batch"),
    ("F", "refused: energies that cannot be differentiated"),
    ("N", "refused: no states of atoms"),
    ("V", "refused: no vectors of atoms"),
    ("S", "refused: reads structures, not compositions"),
    ("B", "refused: batch norm couples the energies of different crystals"),
)


@dataclass(frozen=True)
class ObjectiveRow:
    """One configuration of the group ``objective``.

    Attributes:
        name: What ``objective=`` takes.
        labels: Labels that the data set must have.
        made: Labels that its views make.
        requires: What the encoder must provide; ``teacher`` if it learns from one.
        heads: Roles of its heads.
        compares: Whether its loss compares the crystals of a step with each other.
        encoders: Encoder to ``✓``, ``1`` or the letters of what it lacks, see ``LEGEND``.
        remark: Why something is missing.
    """

    name: str
    labels: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    compares: bool = False
    encoders: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""


def list_objectives(
    config: Mapping[str, Any], config_dirs: Sequence[str] = ()
) -> list[ObjectiveRow]:
    """Returns a row for every objective, and writes them to ``out`` if that is given.

    Raises:
        ConfigError: If ``only`` or ``encoders`` names an unknown one, or the ending of ``out`` is
            unknown.
    """
    out = output_file(config["out"], ENDINGS)
    encoders: dict[str, Encoder] = {}
    for name, one in every_option("encoder", config_dirs, _names(config["encoders"])).items():
        try:
            encoders[name] = build_encoder(one)
        except EpitaxyError as error:
            logger.warning("encoder %s cannot be built: %s", name, error)
    found = every_option("objective", config_dirs, _names(config["only"]))
    rows = [describe(name, one, encoders) for name, one in found.items()]
    if out is not None:
        write_page(_FORMATS[out.suffix.lower()](rows), out)
        logger.info("written to %s", out)
    return rows


def describe(name: str, config: Mapping[str, Any], encoders: Mapping[str, Encoder]) -> ObjectiveRow:
    """Returns the row of one configuration, tried with ``encoders``."""
    try:
        objective: Objective = build(with_placeholders(config))
    except EpitaxyError as error:
        return ObjectiveRow(name, remark=str(error))
    verdicts = {one: verdict(encoder, objective) for one, encoder in encoders.items()}
    fitting = [encoders[one] for one, found in verdicts.items() if found in (YES, ONE)]
    if objective.needs_teacher and fitting:
        objective.receive(fitting[0])  # any will do to see which heads there are
    return ObjectiveRow(
        name,
        objective.labels,
        tuple(made.name for made in objective.made),
        (*sorted(objective.requires), *(("teacher",) if objective.needs_teacher else ())),
        _roles(objective, fitting),
        objective.couples_records,
        verdicts,
    )


def verdict(encoder: Encoder, objective: Objective) -> str:
    """Returns whether ``objective`` trains ``encoder``: ``✓``, ``1``, or what is in the way."""
    missing = objective.requires - frozenset(encoder.provides)
    if missing:
        return "".join(letter for name, letter in _LACKS.items() if name in missing)
    if encoder.couples_records:
        return _COUPLES if objective.forbids_coupling else ONE
    return YES


def with_placeholders(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration in which names that are the user's to choose stand for themselves."""
    return {key: f"<{key}>" if value == "???" else value for key, value in config.items()}


def table(rows: Sequence[ObjectiveRow]) -> str:
    """Returns the rows for a terminal: what each wants, then the matrix with its legend."""
    head = ("objective", "labels", "requires", "heads", "compares crystals")
    facts = [head, *(_facts(row) for row in rows if not row.remark)]
    remarks = [(row.name, row.remark) for row in rows if row.remark]
    lines = [columns(facts), "", columns(_matrix(rows)), "", columns(LEGEND)]
    if remarks:
        lines += ["", columns([("remarks", ""), *remarks])]
    return "\n".join(lines)


def markdown(rows: Sequence[ObjectiveRow]) -> str:
    """Returns a page with the matrix as a Markdown table, and its legend."""
    head, *body = _matrix(rows)
    wrapping = [name.replace("_", "_<wbr>") for name in head]
    lines = [wrapping, ["---", *[":---:"] * (len(head) - 1)], *body]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    legend = "\n".join(f"- {sign}: {meaning}" for sign, meaning in LEGEND)
    return f"# Which objective trains which encoder\n\n{text}\n\n{legend}\n"


def _json(rows: Sequence[ObjectiveRow]) -> str:
    content = {"legend": dict(LEGEND), "objectives": [asdict(row) for row in rows]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


_FORMATS = dict(zip(ENDINGS, (_json, markdown), strict=True))


def _facts(row: ObjectiveRow) -> tuple[str, ...]:
    made = f" (makes {', '.join(row.made)})" if row.made else ""
    wanted = (", ".join(row.labels) or "none") + made
    compares = "yes" if row.compares else ""
    return (row.name, wanted, ", ".join(row.requires), ", ".join(row.heads), compares)


def _matrix(rows: Sequence[ObjectiveRow]) -> list[list[str]]:
    """Returns a line for each encoder, a column for each objective."""
    shown = [row for row in rows if row.encoders]
    names = list(dict.fromkeys(name for row in shown for name in row.encoders))
    head = ["encoder", *(row.name for row in shown)]
    return [head, *([name, *(row.encoders[name] for row in shown)] for name in names)]


def _roles(objective: Objective, fitting: Sequence[Encoder]) -> tuple[str, ...]:
    """Returns the roles of its heads on the first encoder that it can have heads for."""
    for encoder in fitting:
        try:
            return tuple(objective.heads(encoder))
        except EpitaxyError:
            continue
    return ()


def _names(chosen: Any) -> list[str] | None:
    return [chosen] if isinstance(chosen, str) else chosen
