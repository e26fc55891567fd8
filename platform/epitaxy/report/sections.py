"""The sections of a report, each from summaries to HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import yaml

from epitaxy.predict.evaluation import Quantity
from epitaxy.report import plots
from epitaxy.report.collect import (
    Collection,
    DataSummary,
    EvaluationSummary,
    RunSummary,
    component,
)
from epitaxy.report.compare import VALIDATION, Comparison
from epitaxy.report.drawing import pretty_name, pretty_unit
from epitaxy.report.reproduce import command_of
from epitaxy.report.statistics import improvement, mean_and_spread
from epitaxy.report.tables import (
    definitions,
    details,
    figure,
    number,
    paragraph,
    preformatted,
    table,
)

PARITY_PER_ARM = 1
"""Evaluations of a comparison's arm whose parity is drawn; the table lists all of them."""


def comparisons_section(comparisons: Sequence[Comparison]) -> str:
    """Returns the comparison of ways to start, empty without any."""
    if not comparisons:
        return ""
    return (
        "<section><h2>From scratch and from a teacher</h2>"
        + "".join(f"<h3>{comparison_title(item)}</h3>{_comparison(item)}" for item in comparisons)
        + "</section>"
    )


def comparison_title(comparison: Comparison) -> str:
    """Returns what is compared, escaped."""
    return escape(pretty_name(comparison.name))


def finding(comparison: Comparison, arm: str) -> str:
    """Returns in a sentence how ``arm`` does against the baseline."""
    difference = comparison.difference(arm)
    unit, base = pretty_unit(comparison.unit), comparison.baseline
    mean = mean_and_spread(comparison.arms[base])[0]
    change = improvement(mean, mean_and_spread(comparison.arms[arm])[0])
    verb = "lowers" if difference.mean < 0 else "raises"
    text = (
        f"{arm} {verb} the {comparison.split} MAE of {pretty_name(comparison.label)} by "
        f"{number(abs(difference.mean))} {unit} ({abs(change):.0f} %) against {base}"
    )
    if difference.n < 2:
        return f"{text}, in a single pair: no interval can be given."
    interval = (
        f"95 % interval of the difference {_interval(difference.low, difference.high)} {unit}"
    )
    verdict = "" if difference.excludes_zero else "; it includes zero, so this may be chance"
    return f"{text} over {difference.n} paired seeds ({interval}{verdict})."


def evaluations_section(collection: Collection, comparisons: Sequence[Comparison]) -> str:
    """Returns metrics of all evaluations and parity plots, empty without any."""
    if not collection.evaluations:
        return ""
    rows = [
        _quantity_row(item, name, quantity)
        for item in collection.evaluations
        for name, quantity in item.evaluation.quantities.items()
    ]
    header = (
        "model", "data", "quantity", "MAE", "RMSE", "R²", "predict 0", "predict mean",
        "element reference", "records", "without label",
    )  # fmt: skip
    notes = [
        "MAE and RMSE count every component. The columns predict 0, predict mean and element "
        "reference give the MAE of these trivial predictions on the same labels; the mean is "
        + _means(collection)
        + ". R² is 1 − SSE/SST about the mean of the labels shown."
    ]
    broken = [i.name for i in collection.evaluations for q in i.evaluation.quantities.values()
              if q.non_finite]  # fmt: skip
    if broken:
        notes.append(
            f"Predictions that are not finite occur in: {', '.join(dict.fromkeys(broken))}"
        )
    pictures = "".join(_parities(item) for item in _drawn(collection, comparisons))
    if len(_drawn(collection, comparisons)) < len(collection.evaluations):
        notes.append("Of runs that differ in their seed only, the first is drawn.")
    return (
        "<section><h2>Predictions against labels</h2>"
        + table(header, rows)
        + "".join(paragraph(note, "soft") for note in notes)
        + f'<div class="figures">{pictures}</div></section>'
    )


def runs_section(collection: Collection, comparisons: Sequence[Comparison]) -> str:
    """Returns what was trained and its learning curves."""
    compared = {run.directory for item in comparisons for arm in item.runs.values() for run in arm}
    curves = "".join(
        f"<h3>{escape(run.name)}</h3>"
        + figure(plots.learning_curves(run), f"Learning curves of {run.name}", wide=True)
        for run in collection.runs
        if run.directory not in compared and run.history
    )
    header = ("run", "start", "seed", "data", "train", "val", "test", "filtered", "epochs",
              "best validation MAE")  # fmt: skip
    rows = [_run_row(run, collection) for run in collection.runs]
    notes = "".join(paragraph(note, "soft") for note in collection.notes)
    return f"<section><h2>Training</h2>{table(header, rows)}{notes}{curves}</section>"


def data_section(collection: Collection) -> str:
    """Returns a card for every data set."""
    cards = "".join(_data_card(data) for data in collection.data.values())
    return f"<section><h2>Data</h2>{cards}</section>" if cards else ""


def settings_section(collection: Collection) -> str:
    """Returns versions, lineage, and all settings folded away."""
    versions = sorted({
        " ".join(f"{name} {version}" for name, version in run.versions.items())
        for run in collection.runs
    })  # fmt: skip
    parts = [definitions([("software", text) for text in versions])]
    for run in collection.runs:
        plain = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        facts = definitions([
            ("encoder", component(run.settings["encoder"])),
            ("objective", component(run.settings["objective"])),
            ("started from", _lineage(run)),
            ("data digest", run.data_digest),
            ("weights sha256", run.weights),
            ("started", run.created),
        ])  # fmt: skip
        parts.append(details(run.name, facts + preformatted(plain)))
    return f"<section><h2>Settings and lineage</h2>{''.join(parts)}</section>"


def reproduction_section(collection: Collection) -> str:
    """Returns the commands that make the runs again."""
    commands = "\n".join(command_of(run) for run in collection.runs)
    text = "Options that are not listed have their defaults. A finished run is not trained again."
    return (
        f"<section><h2>How to reproduce</h2>{paragraph(text, 'soft')}{preformatted(commands)}"
        "</section>"
    )


def _comparison(comparison: Comparison) -> str:
    unit = pretty_unit(comparison.unit)
    arms = list(comparison.arms)
    header = ["seed", *(f"{arm} ({unit})" if unit else arm for arm in arms)]
    rows = [
        [str(seed), *(number(comparison.arms[arm][place]) for arm in arms)]
        for place, seed in enumerate(comparison.seeds)
    ]
    summary = [_arm_row(comparison, arm) for arm in arms]
    findings = "".join(
        paragraph(finding(comparison, arm), "finding") for arm in arms if arm != comparison.baseline
    )
    pictures = figure(
        plots.paired_errors(comparison), f"Errors of {', '.join(arms)} by seed"
    ) + figure(plots.comparison_curves(comparison), "Validation error over the epochs")
    about = (f"{comparison.split} MAE", "mean", "standard deviation", "difference (paired)",
             "95 % interval", "improvement")  # fmt: skip
    return (
        f"{findings}{table(about, summary)}"
        + "".join(paragraph(note, "soft") for note in _comparison_notes(comparison))
        + f'<div class="figures">{pictures}</div>'
        + details("every pair", table(header, rows, f"{comparison.split} MAE by seed"))
    )


def _arm_row(comparison: Comparison, arm: str) -> list[str]:
    unit = pretty_unit(comparison.unit)
    mean, spread = mean_and_spread(comparison.arms[arm])
    row = [arm, f"{number(mean)} {unit}", number(spread)]
    if arm == comparison.baseline:
        return [*row, "", "", ""]
    difference = comparison.difference(arm)
    reference = mean_and_spread(comparison.arms[comparison.baseline])[0]
    return [
        *row,
        number(difference.mean),
        _interval(difference.low, difference.high),
        f"{improvement(reference, mean):+.1f} %".replace("-", "−"),
    ]


def _comparison_notes(comparison: Comparison) -> list[str]:
    notes = [
        f"Difference to {comparison.baseline} at the same seed; negative is better. The interval "
        "is Student's t over the seeds: it covers the spread of trainings, and that of test sets "
        "only where the seed also deals the split."
    ]
    if comparison.split == VALIDATION:
        notes.append(
            "These are validation errors, which also chose the weights of each run. Evaluate the "
            "models on the test split (epitaxy evaluate) for an unbiased comparison."
        )
    if comparison.differing:
        notes.append(f"The arms also differ in {', '.join(comparison.differing)}.")
    if comparison.unpaired:
        notes.append(f"Left out for want of a partner: {', '.join(comparison.unpaired)}.")
    return notes


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def _quantity_row(item: EvaluationSummary, name: str, quantity: Quantity) -> list[str]:
    data = item.evaluation.info["data"]
    return [
        item.name,
        f"{data['name']}, {item.split}",
        f"{pretty_name(name)} ({pretty_unit(quantity.unit)})" if quantity.unit else name,
        number(quantity.mae),
        number(quantity.rmse),
        number(quantity.r2),
        number(quantity.mae_zero),
        number(quantity.mae_mean),
        number(quantity.mae_reference),
        str(quantity.records),
        str(quantity.missing),
    ]


def _means(collection: Collection) -> str:
    kinds = {
        quantity.mean_of
        for item in collection.evaluations
        for quantity in item.evaluation.quantities.values()
    }
    if len(kinds) == 1:
        return f"that of the {kinds.pop()}"
    return "that of the training split where the model stores it, else of the evaluated labels"


def _drawn(collection: Collection, comparisons: Sequence[Comparison]) -> list[EvaluationSummary]:
    """Returns whose parity is shown: of repeated runs only the first seed of each arm."""
    hidden = {
        run.directory
        for item in comparisons
        for runs in item.runs.values()
        for run in runs[PARITY_PER_ARM:]
    }
    return [
        item for item in collection.evaluations if not item.run or item.run.directory not in hidden
    ]


def _parities(item: EvaluationSummary) -> str:
    quantities = item.evaluation.quantities
    names = [name for name in quantities if f"{name}_per_atom" not in quantities]
    where = f"{item.name} on {item.evaluation.info['data']['name']}, {item.split}"
    return "".join(
        figure(
            plots.parity(name, quantities[name], item.evaluation.parity[name]),
            f"Parity plot of {pretty_name(name)}: {where}",
            where,
        )
        for name in names
    )


def _run_row(run: RunSummary, collection: Collection) -> list[str]:
    splits = run.records.get("splits", {})
    data = collection.data.get(run.data_digest)
    errors = [
        f"{pretty_name(label)} {number(run.metrics[key])} {pretty_unit(run.units.get(key, ''))}"
        for label in run.labels
        if (key := _headline(run, label)) in run.metrics
    ]
    sizes = [str(splits.get(name, {}).get("kept", "")) for name in ("train", "val", "test")]
    excluded = sum(int(split.get("excluded", 0)) for split in splits.values())
    return [
        run.name,
        _start(run),
        str(run.seed),
        data.name if data else run.data_digest[:12],
        *sizes,
        f"{excluded} ({_rules(run)})" if _rules(run) else str(excluded),
        str(run.settings["loop"]["epochs"]),
        "; ".join(errors) or "not finished",
    ]


def _start(run: RunSummary) -> str:
    if run.verb != "finetune":
        return "pre-training"
    source = run.lineage.get("reference") or run.settings["init"].get("model")
    return f"{run.strategy} from {source}" if source else run.strategy


def _headline(run: RunSummary, label: str) -> str:
    per_atom = f"val/{label}_per_atom_mae"
    return per_atom if per_atom in run.metrics else f"val/{label}_mae"


def _rules(run: RunSummary) -> str:
    totals: dict[str, int] = {}
    for split in run.records.get("splits", {}).values():
        for rule, taken in split.get("rules", {}).items():
            totals[rule] = totals.get(rule, 0) + int(taken["excluded"])
    return "; ".join(f"{rule}: {count}" for rule, count in totals.items())


def _data_card(data: DataSummary) -> str:
    labels = ", ".join(
        f"{field.name} ({', '.join(filter(None, (pretty_unit(field.unit), field.scheme)))})"
        for field in data.labels
    )
    entries = [
        ("description", data.description),
        ("records", f"{data.records}, {data.skipped} bad ones skipped at import"),
        (f"{len(data.elements)} elements", " ".join(data.elements)),
        ("labels", labels),
        ("recipe", data.recipe),
        ("licence", data.licence),
        ("cite", data.citation),
        ("digest", data.digest),
    ]
    return f"<h3>{escape(data.name)}</h3>{definitions(entries)}"


def _lineage(run: RunSummary) -> str:
    facts = [f"{name} {value}" for name, value in run.lineage.items() if name != "strategy"]
    return ", ".join(facts) or "random weights"
