"""What ``--help`` says: taken from the configuration itself, so that it cannot grow stale."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import epitaxy
from epitaxy.app.groups import options_of, text_of

VERBS = {
    "prepare": "read source files once: check, convert units, write shards",
    "data": "inspect, verify, describe, split, merge, compare, convert and export data sets",
    "pretrain": "train an encoder on a prepared data set",
    "finetune": "train a property model, from a registered teacher or from scratch",
    "evaluate": "measure a model on a split of a data set",
    "explain": "show what a model weighs: attention, gates and masks of some structures",
    "encoders": "list the encoders with their graph, size, cost and symmetries",
    "objectives": "list the objectives with their needs, and which encoder each one trains",
    "registry": "publish, pull, list and import models: name@version, name@alias",
    "sweep": "fine-tune over a grid of strategies, learning rates and seeds",
    "report": "compare runs in one HTML file",
    "quickstart": "the whole path on a small data set made on the spot",
}

_EXAMPLES = {
    "": (
        "epitaxy prepare recipe=mattersim source=frames.xyz.gz out=data/frames",
        "epitaxy pretrain data=data/frames run.name=teacher publish=teacher",
        "epitaxy prepare recipe=mp_csv source=gaps.csv out=data/gaps",
        "epitaxy finetune data=data/gaps from=teacher objective.label=band_gap run.name=gap",
        "epitaxy report runs=[~/.epitaxy/runs/gap] out=gap.html",
    ),
    "prepare": (
        "epitaxy prepare recipe=NAME source=frames.xyz.gz out=data/frames",
        "epitaxy prepare recipe=NAME source=frames.xyz.gz out=data/frames on_error=skip",
        "epitaxy prepare recipe=NAME source=[one.xyz,two.xyz] out=data/frames format=zarr",
        "epitaxy prepare recipe=NAME source=frames.xyz.gz out=data/frames compute=ray workers=32",
        "epitaxy prepare recipe=mine.yaml source=mine.json.gz out=data/mine symmetry=true",
        "epitaxy data inspect source=mine.json.gz out=mine.yaml",
    ),
    "pretrain": (
        "epitaxy pretrain data=data/frames run.name=teacher publish=teacher",
        "epitaxy pretrain data=data/frames run.name=wide encoder=cgcnn encoder.width=128",
        "epitaxy pretrain data=data/frames run.name=debug compute=local loop.epochs=1",
        "epitaxy pretrain data=data/frames experiment=force_pretraining_1_1_1",
        "epitaxy pretrain data=data/frames run.name=big compute=ray compute.workers=8",
        "epitaxy pretrain data=data/crystals run.name=formulas objective=multimodal encoder=roost "
        "teacher=crystal-twins@best",
    ),
    "finetune": (
        "epitaxy finetune data=data/gaps from=teacher@best objective.label=band_gap run.name=gap",
        "epitaxy finetune data=data/gaps from=teacher finetune=last_layer "
        "objective.label=band_gap run.name=gap-last",
        "epitaxy finetune data=data/gaps finetune=scratch objective.label=band_gap run.name=base",
    ),
    "evaluate": (
        "epitaxy evaluate model=gap-model data=data/gaps",
        "epitaxy evaluate model=~/.epitaxy/runs/gap/final data=data/other split=all",
    ),
    "explain": (
        "epitaxy explain model=gap-model data=data/gaps out=weights",
        "epitaxy explain model=gap-model data=data/gaps ids=[mp-1,mp-2] out=weights",
        "epitaxy explain model=~/.epitaxy/runs/gap/final source=POSCAR.tar "
        "recipe=poscar_folder limit=3 out=weights",
    ),
    "encoders": (
        "epitaxy encoders",
        "epitaxy encoders out=encoders.csv",
        "epitaxy encoders only=[cgcnn,alignn] time=true",
        "epitaxy encoders --config-dir mine out=encoders.md",
    ),
    "objectives": (
        "epitaxy objectives",
        "epitaxy objectives only=[crysgnn,barlow_twins] encoders=[cgcnn,alignn]",
        "epitaxy objectives out=matrix.md",
    ),
    "registry": (
        "epitaxy registry list",
        "epitaxy registry show model=teacher@best",
        "epitaxy registry publish folder=~/.epitaxy/runs/gap/final name=gap-model alias=[best]",
        "epitaxy registry alias model=teacher@3 alias=best",
        "epitaxy registry pull model=teacher@best out=teacher-copy",
        "epitaxy registry verify model=teacher@3",
        "epitaxy registry import-foreign file=cgcnn.pth.tar label=formation_energy_per_atom "
        "unit=eV/atom name=cgcnn-mp",
        "epitaxy registry import-foreign file=barlow.pth options=config.yaml out=barlow",
    ),
    "sweep": (
        "epitaxy sweep data=data/gaps from=teacher objective.label=band_gap run.name=grid "
        "sweep.strategy=[scratch,full,last_layer] sweep.lr=[1e-3,3e-4]",
    ),
    "report": ("epitaxy report runs=[~/.epitaxy/runs/a,~/.epitaxy/runs/b] out=report.html",),
}

_TEXT = {
    "home": "folder of runs, registry and caches",
    "registry.uri": "MLflow database or server, or a folder (/mnt/models, s3://…)",
    "registry.artifacts": "where an MLflow server's model files lie",
    "seed": "of initial weights and of the order of the records",
    "batch.graphs": "structures per step, over all workers",
    "batch.edges": "edges per step, instead of a number of structures",
    "batch.atoms": "atoms per step, instead of a number of structures",
    "batch.micro_batches": "parts that a worker's share of a step is computed in, to save memory",
    "data": "prepared data set: the folder that `epitaxy prepare` wrote; several, [A,B], are mixed",
    "run.name": "name of the run; the same command resumes it",
    "run.directory": "folder of the run",
    "tracking": "MLflow database; null switches it off",
    "publish": "register the finished model under this name",
    "alias": "aliases for the published version, such as [best]",
    "from": "model to start from: NAME, NAME@ALIAS, NAME@3, or a model folder",
    "teacher": "frozen model that the objective learns from: NAME@ALIAS … or a model folder",
    "trust": "module prefixes whose code a model from elsewhere may name",
    "recipe": "how to read the source: a name or a YAML file",
    "source": "file, folder or URI that the recipe reads",
    "out": "where to write",
    "format": "lmdb or zarr",
    "on_error": "stop at a bad record, or skip, count and list it",
    "overwrite": "replace a data set that is already there",
    "resume": "go on with an interrupted import; false starts it from the beginning",
    "checks": "labels that contradict physics: stop, report, or off",
    "symmetry": "add space group and crystal system to every record",
    "fingerprint": "magpie: add that vector of the composition to every record",
    "compute": "where source files are parsed: on this machine (local) or on a Ray cluster (ray)",
    "workers": "processes that parse; null: one per core, at most eight (all CPUs of a cluster)",
    "card": "write the data card OUT/card.html",
    "model": "NAME, NAME@ALIAS, NAME@3, or a model folder",
    "split": "train, val, test (as dealt in training), or all",
    "ids": "of the structures to take, such as [mp-1,mp-2]",
    "index": "their places instead, from 0 on, such as [0,7]",
    "limit": "without ids= and index=: so many structures from the first on",
    "explain data": "prepared data set(s) to take structures from, or:",
    "explain source": "file, folder or URI to take them from; labels are not needed",
    "explain out": "folder for tables and pictures; an earlier explanation in it is replaced",
    "encoders out": "file to write the list to as well: .csv, .json or .md",
    "only": "list of names; null: all",
    "encoders": "list of encoders to try each objective with; null: all",
    "objectives out": "file to write the list to as well: .json or .md",
    "time": "measure milliseconds of a forward pass, and with gradients (takes minutes)",
    "folder": "model folder to publish, such as <run>/final",
    "name": "name to publish it under",
    "file": "checkpoint (torch.save, safetensors) of CGCNN, CrysXPP, CrysGNN, Crystal Twins, "
    "ALIGNN, GATGNN, Roost or MatDeepLearn",
    "family": "which of these models; auto: told by the names of the parameters",
    "label": "what its head predicts",
    "unit": "in which unit; not for classifiers",
    "options.radius": "Å; options replace what the file says; options=FILE.yaml reads the authors'",
    "options.max_neighbors": "neighbours per atom",
    "options.dmin": "Å, first Gaussian of a CGCNN",
    "options.step": "Å, to the next Gaussian of a CGCNN",
    "options.max_images": "periodic images along each axis (MatDeepLearn)",
    "options.heads": "attention heads of an equivariant transformer",
    "options.order": "early pools before the last layers, late after them (MatDeepLearn)",
    "options.pool": "sum, mean or max over atoms (MatDeepLearn)",
    "options.repeats": "self for ALIGNN graphs with use_canonize, mutual for others",
    "options.attention": "composition, cluster_fixed or cluster_random (GATGNN)",
    "options.unit_length": "whether states of atoms end up with length 1 (CrysGNN)",
    "options.robust": "whether a Roost also predicts its own error",
    "options.mean": "of the labels, if the file holds no normalizer",
    "options.std": "of the labels, if the file holds no normalizer",
    "options.task": "regression or classification",
    "runs": "list of run folders; a sweep's folder stands for its trials",
    "evaluations": "folders that `epitaxy evaluate` wrote; null: those of these runs under home",
    "title": "heading of the report",
    "sweep.strategy": "list of finetune= choices",
    "sweep.lr": "list of learning rates",
    "sweep.seed": "list of seeds",
    "sweep.metric": "what ranks the trials; smaller is better",
    "sweep.cpus_per_trial": "logical CPUs of a trial",
    "sweep.concurrent": "trials at a time; null: as many as fit",
}


def main_help() -> str:
    """Returns the text of ``epitaxy --help``; reads no configuration, so it is instant."""
    lines = [f"epitaxy {epitaxy.__version__}: {_first_line(epitaxy)}", ""]
    lines += ["usage: epitaxy VERB [key=value ...] [--help] [--cfg] [--config-dir DIR]", ""]
    lines += [f"  {verb:<11}{text}" for verb, text in VERBS.items()]
    lines += ["", "a typical path:", *_indented(_EXAMPLES[""]), "", "choices:"]
    for group in ("encoder", "objective", "finetune", "train", "experiment", "compute"):
        lines.append(f"  {group:<11}{' | '.join(options_of(group))}")
    lines += ["", "`epitaxy VERB --help` lists every option with its default.", FLAGS]
    return "\n".join(lines)


FLAGS = """
  --cfg             print the resolved configuration and stop
  --config-dir DIR  further groups of yours, such as DIR/encoder/mine.yaml (may be repeated)
  --debug           show the traceback of an error (also EPITAXY_DEBUG=1)
  --version         print the version"""


def verb_help(
    verb: str,
    config: Mapping[str, Any],
    choices: Mapping[str, str | None],
    options: Mapping[str, Sequence[str]],
    config_dirs: Sequence[str] = (),
) -> str:
    """Returns the text of ``epitaxy VERB --help`` for the defaults in ``config``."""
    action = " ACTION" if verb == "registry" else ""
    lines = [f"epitaxy {verb}: {VERBS[verb]}", ""]
    lines += [f"usage: epitaxy {verb}{action} [key=value ...]", "", "examples:"]
    lines += _indented(_EXAMPLES.get(verb, ()))
    if verb == "prepare":
        lines += ["", f"recipes: {', '.join(_recipes()) or 'none found'}"]
    for group in sorted(options):
        lines += ["", f"{group}= (default {show(choices[group])})"]
        for name in options[group]:
            lines.append(f"  {name:<27} {_purpose(group, name, config_dirs)}".rstrip())
    lines += ["", "options and their defaults (??? must be given):"]
    texts = _settings_texts() | _TEXT
    for group in options:
        texts |= _argument_texts(group, choices[group], config_dirs)
    for path, value in sorted(leaves(config), key=_rank):
        text = texts.get(f"{verb} {path}", texts.get(path, ""))
        lines.append(f"  {f'{path}={show(value)}':<42}  {text}".rstrip())
    return "\n".join(lines) + "\n" + FLAGS


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].removeprefix("Epitaxy: ")


def _recipes() -> list[str]:
    from epitaxy.data.recipe import list_recipes

    return list(list_recipes())


def _rank(option: tuple[str, Any]) -> int:
    """Puts what must be given first and what is seldom touched last."""
    path, value = option
    if value == "???" and path != "run.directory":
        return 0
    return 2 if path.split(".")[0] in ("home", "registry", "tracking", "trust") else 1


def _purpose(group: str, name: str, config_dirs: Sequence[str]) -> str:
    """Returns the comment that opens a config file, which says what the choice is for."""
    lines = text_of(group, name, config_dirs).splitlines()
    first = next((line for line in lines if not line.startswith("# @package")), "")
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _argument_texts(group: str, name: str | None, config_dirs: Sequence[str]) -> dict[str, str]:
    """Returns the comments beside the arguments in a component's config file."""
    text = text_of(group, name, config_dirs)
    found = re.findall(r"^(\w+):[^#\n]*#\s*(.*)$", text, flags=re.MULTILINE)
    return {f"{group}.{argument}": comment for argument, comment in found}


def _settings_texts() -> dict[str, str]:
    """Returns the documentation of each setting, from the docstrings of its dataclass."""
    from epitaxy.train import settings

    texts = {}
    hints = typing.get_type_hints(settings.RunSettings)
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            for attribute, text in _attribute_texts(inspect.getdoc(kind) or "").items():
                texts[f"{name}.{attribute}"] = text
    return texts


def _attribute_texts(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "").rstrip(".") for name, text in entries}


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted path and the value of every option."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", value


def show(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(show(item) for item in value)}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
