"""What ``epitaxy data --help`` and the help of its actions say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epitaxy.app.help import FLAGS, leaves, show

ACTIONS = {
    "inspect": "look into a source file nobody has a recipe for, or into a prepared data set",
    "verify": "check every checksum and every record of a prepared data set",
    "append": "add records of a source file to a prepared data set, as its next version",
    "copy": "copy a data set to another folder or to a URI (s3://…), or from there",
    "stats": "numbers and one HTML data card with pictures",
    "merge": "join data sets, matching structures: many properties of one crystal in one record",
    "split": "store splits and nested subsets with a data set, by id",
    "overlap": "which records of one data set occur in another, and a list to exclude them",
    "convert": "write a data set anew: LMDB or Zarr, one split, with derived labels",
    "export": "extended XYZ or PyTorch Geometric",
}

_LESSONS = {
    "inspect": """
With source= it finds out what kind of file it is, shows the keys of the first record and drafts a
recipe. Fill in what only you can know (units, sign of the stress, functional) and prepare with it;
the physics checks of `prepare` then tell whether you were right.
With data= it shows the manifest of a prepared data set: labels, conversions, evidence, splits.""",
    "verify": """
Reads everything: sizes and SHA-256 of all files, the checksum of every record, and the rules that
every record must keep. Exit code 2 names every damaged file and record.
Reading in training checks too: each shard once in every process, or beyond 16 GB each record
(EPITAXY_VERIFY=first_read, on_suspicion or never says which).""",
    "append": """
New shards and a new manifest are written, nothing older is touched: a run that reads the data set
goes on, and Dataset.open(DATA, version=N) opens what was there before. Ids must be new, labels must
mean what they mean already. Stored splits do not know the new records: it says how many they leave
out. The new version appears complete or not at all; the same command goes on after a kill.""",
    "copy": """
data= and out= are folders or URIs: s3:// (needs s3fs), gs:// (gcsfs), az:// (adlfs), https:// (to
read). Splits and earlier versions go along. At a URI the manifest comes last: a copy that was cut
off is no data set, and the same command goes on with it. Training reads data=s3://… as it is: Zarr
by ranges, LMDB shards through a cache of EPITAXY_CACHE_BYTES (64G) in HOME/cache.""",
    "stats": """
Robust statistics of every label (median, MAD, quantiles, outliers with their ids), elements, sizes,
densities, neighbours, and what physics says of the labels. sample= looks at that many records.""",
    "merge": """
by=structure joins records whose crystals are the same (whatever their cell, origin, order of atoms
or rotation) and gives them the labels of all; by=id joins equal ids; by=none only concatenates.
Labels of one name must agree in unit and scheme: formation energies of two releases are two labels.
merged.jsonl in the new data set says which records went into which.""",
    "split": """
A stored split lies in DATA/splits/NAME.json and is used by split.name=NAME in training.
by= says what must stay together: record (nothing), group (the material, as the recipe says),
formula, chemical_system, structure (duplicates), or time with time=LABEL (earliest first).
file= takes ids from a file instead: {"train": [...], ...}, a MatBench fold file with task= and
fold=, a table with columns id and split, or a folder with train.txt, val.txt, test.txt.
subsets=[10,100] draws nested subsets of the training records that have label=, for every trial,
named NAME-trial1-10, …: `random`, `weighted` (rare values favoured) or `uniform` (flat over the
range). With a file of published subsets as file= give its property= and the prefix= of the ids.""",
    "overlap": """
Crystals are compared by fingerprints that do not depend on cell, origin, order or rotation.
level=same is the same structure, level=similar also another relaxation of it, level=formula only
its composition. exclude=FILE writes the ids of data= to leave out, with all records of their
groups; training honours it as filter.exclude=FILE, so that a benchmark's test crystals stay out of
pre-training. Without other= the splits of data= are compared with each other.""",
    "convert": """
Records, ids and provenance stay the same; without split= and derived labels (symmetry=true,
fingerprint=magpie) the data digest does too. split=train keeps the records of a split only: NAME
of a stored split as NAME:train. Records stream through, data= and out= may be URIs, and the same
command goes on after a kill.""",
    "export": """
format=extxyz writes every digit, so the file can be prepared again without a change; out= may end
with .gz. format=pyg writes one file for InMemoryDataset.load, with cutoff= also its edges.""",
}

_EXAMPLES = {
    "inspect": (
        "epitaxy data inspect source=mine.json.gz out=mine.yaml",
        "epitaxy data inspect data=data/frames",
    ),
    "verify": (
        "epitaxy data verify data=data/frames",
        "epitaxy data verify data=s3://bucket/frames workers=8",
    ),
    "append": (
        "epitaxy data append data=data/frames recipe=mattersim source=more.xyz.gz",
        "epitaxy data append data=data/frames recipe=mine.yaml source=new/*.json on_error=skip",
    ),
    "copy": (
        "epitaxy data copy data=data/frames out=s3://bucket/frames",
        "epitaxy data copy data=https://example.org/frames out=data/frames",
    ),
    "stats": (
        "epitaxy data stats data=data/frames out=frames.html",
        "epitaxy data stats data=data/frames sample=10000",
    ),
    "merge": (
        "epitaxy data merge data=[data/gv,data/ph,data/bg] out=data/cumulative",
        "epitaxy data merge data=[data/one,data/two] out=data/all by=none",
    ),
    "split": (
        "epitaxy data split data=data/gaps",
        "epitaxy data split data=data/gaps name=by-formula by=formula fractions=[0.8,0.1,0.1]",
        "epitaxy data split data=data/mpts name=by-year by=time time=year",
        "epitaxy data split data=data/phonons name=fold-0 file=matbench_v0.1_validation.json "
        "task=matbench_phonons fold=0 missing=skip",
        "epitaxy data split data=data/gv name=gv subsets=[10,100,200,500,800] "
        "label=log10_shear_modulus trials=5 sampling=random",
    ),
    "overlap": (
        "epitaxy data overlap data=data/mp other=data/phonons exclude=phonons.txt",
        "epitaxy data overlap data=data/mp other=data/phonons other_split=by-formula:test "
        "level=similar exclude=phonons-test.txt out=overlap.json",
        "epitaxy data overlap data=data/gaps split=by-formula",
    ),
    "convert": (
        "epitaxy data convert data=data/frames out=data/frames-zarr format=zarr",
        "epitaxy data convert data=data/gaps out=data/gaps-sg symmetry=true format=lmdb",
    ),
    "export": (
        "epitaxy data export data=data/frames out=frames.xyz.gz",
        "epitaxy data export data=data/frames out=frames.pt format=pyg cutoff=5",
    ),
}

_TEXT = {
    "data": "prepared data set, a folder or a URI; for merge a list of them",
    "source": "file or folder to read",
    "recipe": "how to read the source: a name or a YAML file",
    "on_error": "stop at a bad record, or skip, count and list it",
    "checks": "labels that contradict physics: stop, report, or off",
    "compute": "where source files are parsed: on this machine (local) or on a Ray cluster (ray)",
    "workers": "processes that read; null: one per core, at most eight",
    "resume": "go on with an interrupted call; false starts it from the beginning",
    "out": "file or folder to write; null: none",
    "sample": "records to look at, chosen by hash; null: all",
    "format": "lmdb or zarr; for export extxyz or pyg",
    "symmetry": "add space group and crystal system to every record",
    "fingerprint": "magpie: add that vector of the composition to every record",
    "split": "split rule or stored split, or NAME:train of one; null: all records",
    "other_split": "the same for other=",
    "other": "data set to compare with; null: the splits of data= with each other",
    "overwrite": "replace what is already there",
    "cutoff": "Å; build edges that far",
    "by": "what belongs together (see above)",
    "level": "same, similar or formula: how alike two crystals must be",
    "conflicts": "values that differ between merged records: first, mean or error",
    "tolerance": "relative difference up to which two values agree",
    "schemes": "labels of one name and several schemes: refuse or keep_first",
    "name": "name of the stored split; null lists those there are",
    "fractions": "shares of train, val and test",
    "sizes": "numbers of records instead of fractions",
    "seed": "key of the hash that orders groups, and of subsets",
    "time": "numeric label that orders records by=time",
    "file": "file or folder of ids instead of a rule",
    "task": "of a fold file with several",
    "fold": "of a fold file",
    "val_fraction": "share of a fold's training records that validate",
    "missing": "ids of the file that the data set lacks: error or skip",
    "subsets": "list of sizes of nested training subsets",
    "label": "subsets: label that records must have, and that weights them",
    "base": "subsets: stored split whose test records stay out; null: the rule above",
    "trials": "subsets: independent draws",
    "sampling": "subsets: random, weighted or uniform",
    "property": "published subsets: property in the file",
    "prefix": "published subsets: put before every id",
    "exclude": "file to write ids to that training should leave out",
    "home": "folder of the fingerprint cache",
}


def overview() -> str:
    """Returns the text of ``epitaxy data --help``."""
    lines = ["epitaxy data: what can be done with files and prepared data sets", ""]
    lines += ["usage: epitaxy data ACTION [key=value ...]", ""]
    lines += [f"  {name:<9}{text}" for name, text in ACTIONS.items()]
    lines += ["", "`epitaxy data ACTION --help` explains one, with examples.", FLAGS]
    return "\n".join(lines)


def action_help(action: str, config: Mapping[str, Any]) -> str:
    """Returns the text of ``epitaxy data ACTION --help`` for the defaults in ``config``."""
    lines = [f"epitaxy data {action}: {ACTIONS[action]}"]
    lines += [_LESSONS[action].rstrip(), "", "examples:"]
    lines += [f"  {example}" for example in _EXAMPLES[action]]
    lines += ["", "options and their defaults (??? must be given):"]
    for path, value in leaves(config):
        text = _TEXT.get(path, "")
        if text:
            lines.append(f"  {f'{path}={show(value)}':<34}  {text}")
    return "\n".join([*lines, FLAGS])
