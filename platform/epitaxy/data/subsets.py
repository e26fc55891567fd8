"""Nested training subsets: learning curves whose points differ by size and by nothing else.

For every property and trial the labelled records have one order, made of a keyed hash of each id;
the subset of size *n* is its first *n* records. A larger subset therefore holds every smaller one,
and the order of the data set changes nothing. The published study (pairwise transfer between
seven properties) names its samplings and leaves them open; here they are:

* ``random``: by the hash, so every record is equally likely to come next.
* ``weighted``: drawn without replacement, each next one with a probability proportional to the
  inverse number of records in the bin of its label. Sorting by ``-ln(u) / weight``, with *u* from
  the hash, gives that distribution (Efraimidis and Spirakis, Inf. Process. Lett. 97, 181 (2006)).
* ``uniform``: flat over the range of the label. In each round every bin that has records left
  gives one, the next of its hash order; within a round they come by hash.

Bins divide the range of the pool's labels into equal widths. One of every ten records of the
order, beginning with the first, is for validation, so train and val are nested as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from epitaxy.data.id_lists import read_json_object
from epitaxy.data.names import find_rows
from epitaxy.data.split_files import check_free, check_name, load_split, save_split
from epitaxy.data.split_rules import SAMPLE, Rows, rows_of_ids, scalar_column
from epitaxy.data.splits import make_split
from epitaxy.errors import ConfigError, PlanError, closest

if TYPE_CHECKING:
    from epitaxy.data.dataset import Dataset

Sampling = Literal["random", "weighted", "uniform"]

SIZES = (10, 100, 200, 500, 800)
"""Of the published study."""

VAL_EVERY = 10
BINS = 10

_PUBLISHED = re.compile(r"trial(\d+)_(\d+)")


def nested_subsets(
    ids: np.ndarray | Sequence[str],
    values: np.ndarray | Sequence[float],
    *,
    property: str,
    trial: int,
    sizes: Sequence[int] = SIZES,
    sampling: Sampling = "random",
    seed: int = 0,
    bins: int = BINS,
) -> dict[int, np.ndarray]:
    """Returns the ids of each subset, in the order in which they are drawn.

    Args:
        ids: Ids of the pool, (records,), each once.
        values: Label of each record; NaN where it is missing, which excludes the record.
        property: Name that the order depends on, usually that of the label.
        trial: Number that the order depends on.
        sizes: Records per subset, train and val together.
        sampling: ``random``, ``weighted`` or ``uniform``; see the module.
        seed: Key of the hash.
        bins: Bins of equal width over the range of the label.

    Raises:
        ConfigError: If a setting is wrong.
        PlanError: If a subset needs more records than carry the label.
    """
    names, labels = np.asarray(ids, dtype=np.str_), np.asarray(values, dtype=np.float64)
    _check_settings(sizes, sampling, bins)
    if names.shape != labels.shape:
        raise ConfigError(f"subsets need a value per id, got {names.shape} and {labels.shape}")
    present = np.isfinite(labels)
    names, labels = names[present], labels[present]
    if max(sizes) > len(names):
        raise PlanError(
            f"a subset of {max(sizes)} records of {property!r} was asked for, and the pool has "
            f"{len(names)} that carry it; ask for smaller sizes"
        )
    hashes = _hashes(names, property, trial, seed)
    bin_of = _bins(labels, bins)
    # Ids come last, so equal hashes still have one order.
    order = np.lexsort((names, hashes, _draw_key(hashes, bin_of, sampling)))
    return {size: names[order[:size]] for size in sizes}


def is_val(size: int) -> Bool[np.ndarray, " size"]:
    """Returns which of the first ``size`` records of an order are for validation."""
    return np.arange(size) % VAL_EVERY == 0


def make_subsets(
    dataset: Dataset,
    name: str,
    *,
    label: str,
    sizes: Sequence[int] = SIZES,
    trials: int = 5,
    sampling: Sampling = "random",
    base: str | Mapping[str, Any] | None = None,
    seed: int = 0,
    bins: int = BINS,
    overwrite: bool = False,
) -> list[Path]:
    """Stores nested subsets as the splits ``<name>-trial<k>-<size>``, *k* from 1.

    The pool is train and val of the base split. Its test ids are in no subset; every stored split
    carries them as its own test, so all sizes and trials are measured on the same records.

    Args:
        dataset: The prepared data.
        name: First part of the names.
        label: Scalar label that a record must carry.
        sizes: Records per subset, train and val together (9 : 1).
        trials: How many orders.
        sampling: ``random``, ``weighted`` or ``uniform``; see the module.
        base: Name of a stored split, or arguments of ``make_split``; its defaults if ``None``.
        seed: Key of the hash.
        bins: Bins over the range of the label.
        overwrite: Whether splits of these names may be replaced.

    Returns:
        The files, trial by trial.

    Raises:
        ConfigError: If a setting is wrong or a name is taken; then nothing is written.
        PlanError: If a subset needs more records than carry the label.
    """
    _check_settings(sizes, sampling, bins)
    if trials < 1:
        raise ConfigError(f"subsets need at least one trial, got {trials}")
    names = [f"{name}-trial{trial}-{size}" for trial in range(1, trials + 1) for size in sizes]
    _check_names(dataset, names, overwrite)
    values = scalar_column(dataset, label, "label")
    parts = _base_rows(dataset, base)
    pool = np.sort(np.concatenate([parts["train"], parts["val"]]))
    told = {"label": label, "sampling": sampling, "seed": seed, "bins": bins, "base": _told(base)}
    paths = []
    for trial in range(1, trials + 1):
        subsets = nested_subsets(
            dataset.ids[pool], values[pool],
            property=label, trial=trial, sizes=sizes, sampling=sampling, seed=seed, bins=bins,
        )  # fmt: skip
        for size, chosen in subsets.items():
            split = _divide(dataset, chosen) | {"test": parts["test"]}
            settings = {"subset": {"trial": trial, "size": size, **told}}
            full = f"{name}-trial{trial}-{size}"
            paths.append(save_split(dataset, full, split, settings, overwrite=overwrite))
    return paths


def import_subsets(
    dataset: Dataset,
    file: str | Path,
    property: str,
    prefix: str = "",
    *,
    name: str | None = None,
    base: str | Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Stores published samples as the splits ``<name>-trial<k>-<size>``.

    The size in a name is the published one. Ids that the data set lacks (its pool may be a part of
    the original) are left out, and so are those in the test part of ``base``; both are counted
    under ``settings`` of the split. Of what is left, one of every ten is for validation.

    Args:
        dataset: The prepared data.
        file: JSON, property → ``trial<k>_<size>`` → list of ids; may be compressed.
        property: Property whose samples are wanted, as the file calls it.
        prefix: What the recipe put before the ids, such as ``phonons-``.
        name: First part of the names; ``property`` by default.
        base: Split whose test ids are carried along; without one the test part is empty.
        overwrite: Whether splits of these names may be replaced.

    Returns:
        The files, in the order of the published file.

    Raises:
        ConfigError: If the file cannot be understood or a name is taken; then nothing is written.
        PlanError: If a sample has fewer than two ids in the data set.
    """
    samples = _read_samples(Path(file), property)
    first = name or property
    names = [f"{first}-trial{trial}-{size}" for trial, size in samples]
    _check_names(dataset, names, overwrite)
    test = _base_rows(dataset, base)["test"] if base is not None else np.arange(0)
    held_out = set(dataset.ids[test].tolist())
    splits = []
    for (trial, size), listed in samples.items():
        wanted = [f"{prefix}{item}" for item in listed]
        missing = find_rows(dataset.id_names, wanted)[1]
        lost = held_out | set(missing)
        chosen = [identity for identity in wanted if identity not in lost]
        if len(chosen) < 2:
            raise PlanError(
                f"the data set has {len(chosen)} of the {len(wanted)} ids of {property!r}, trial "
                f"{trial}, size {size}, such as {wanted[:SAMPLE]}; its own are like "
                f"{dataset.ids[:SAMPLE].tolist()}: give the prefix that the recipe puts before ids"
            )
        counts = {"missing": len(missing), "in_test": len(wanted) - len(missing) - len(chosen)}
        told = {"property": property, "trial": trial, "size": size, "file": Path(file).name}
        settings = {"subset": {**told, **counts, "prefix": prefix, "base": _told(base)}}
        splits.append((_divide(dataset, chosen) | {"test": test}, settings))
    return [
        save_split(dataset, full, rows, settings, overwrite=overwrite)
        for full, (rows, settings) in zip(names, splits, strict=True)
    ]


def _check_settings(sizes: Sequence[int], sampling: str, bins: int) -> None:
    known = get_args(Sampling)
    if sampling not in known:
        raise ConfigError(f"sampling is {sampling!r}; {closest(str(sampling), known)}")
    if not len(sizes) or any(size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
        raise ConfigError(f"sizes must be different positive numbers, got {list(sizes)}")
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")


def _check_names(dataset: Dataset, names: Iterable[str], overwrite: bool) -> None:
    for name in names:
        if overwrite:
            check_name(name)
        else:
            check_free(dataset, name)


def _base_rows(dataset: Dataset, base: str | Mapping[str, Any] | None) -> Mapping[str, Rows]:
    if isinstance(base, str):
        return load_split(dataset, base).rows
    return make_split(dataset, **(base or {})).rows


def _told(base: str | Mapping[str, Any] | None) -> Any:
    """Returns ``base`` as it is remembered: without arrays."""
    if not isinstance(base, Mapping):
        return base
    return {key: value for key, value in base.items() if key != "keys"}


def _divide(dataset: Dataset, chosen: Sequence[str] | np.ndarray) -> dict[str, Rows]:
    """Returns the rows of train and val of a subset that is given in order."""
    rows = rows_of_ids(dataset.id_names, list(chosen), "the subset")
    val = is_val(len(rows))
    return {"train": rows[~val], "val": rows[val]}


def _read_samples(file: Path, property: str) -> dict[tuple[int, int], list[str]]:
    where = f"subset file {file}"
    content = read_json_object(file, where)
    if property not in content:
        raise ConfigError(f"{where} has no property {property!r}; {closest(property, content)}")
    entries = content[property]
    samples: dict[tuple[int, int], list[str]] = {}
    for key, listed in entries.items() if isinstance(entries, Mapping) else ():
        match = _PUBLISHED.fullmatch(str(key))
        if match is None or not isinstance(listed, list):
            raise ConfigError(
                f"{where}, {property}: expected trial<k>_<size> and a list of ids, got {key!r}"
            )
        items = [str(item) for item in listed]
        if len(set(items)) != len(items):
            raise ConfigError(f"{where}, {property}: {key} lists an id twice")
        samples[int(match[1]), int(match[2])] = items
    if not samples:
        raise ConfigError(f"{where}, {property}: expected trial<k>_<size> → list of ids, got none")
    return samples


def _hashes(
    names: np.ndarray, property: str, trial: int, seed: int
) -> UInt64[np.ndarray, " records"]:
    key = str(seed).encode()
    digests = (
        hashlib.blake2b(f"{property}\0{trial}\0{name}".encode(), key=key, digest_size=8).digest()
        for name in names.tolist()
    )
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _bins(labels: Float64[np.ndarray, " records"], bins: int) -> Int64[np.ndarray, " records"]:
    low, high = labels.min(), labels.max()
    if low == high:
        return np.zeros(len(labels), dtype=np.int64)
    return np.minimum((labels - low) / (high - low) * bins, bins - 1).astype(np.int64)


def _draw_key(
    hashes: UInt64[np.ndarray, " records"], bin_of: Int64[np.ndarray, " records"], sampling: str
) -> Float64[np.ndarray, " records"]:
    """Returns what records are sorted by before their hash decides."""
    if sampling == "weighted":
        uniform = (hashes.astype(np.float64) + 0.5) / 2.0**64  # in (0, 1]
        return -np.log(uniform) * np.bincount(bin_of)[bin_of]
    if sampling == "uniform":
        by_bin = np.lexsort((hashes, bin_of))
        starts = np.concatenate([[0], np.cumsum(np.bincount(bin_of))])
        rounds = np.empty(len(hashes))
        rounds[by_bin] = np.arange(len(hashes)) - starts[bin_of[by_bin]]
        return rounds
    return np.zeros(len(hashes))
