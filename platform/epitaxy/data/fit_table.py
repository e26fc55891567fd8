"""The label columns that an objective fits its statistics on, with those that must be derived."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from epitaxy.data.codec import decode
from epitaxy.data.derived import FIT_RECORDS, derivable, derive
from epitaxy.data.mixture import Data
from epitaxy.errors import NeedsError, closest
from epitaxy.graph.labels import LabelTable
from epitaxy.graph.record import LabelField

logger = logging.getLogger(__name__)

_BLOCK = 512


def fit_table(
    data: Data, rows: np.ndarray, *, labels: Collection[str] = (), fits_on: Collection[str] = ()
) -> LabelTable:
    """Returns the columns of ``rows``; reads records only for what sidecar arrays do not hold.

    Args:
        data: The prepared data.
        rows: Training records; with ``fits_on`` their values are held in memory, 8 bytes a number.
        labels: What the objective asks for: scalars that the data set lacks are derived.
        fits_on: Labels whose whole values it wants, as ``tensors`` (scalars come as ``scalars``).
            What is derived is derived for ``FIT_RECORDS`` of the rows, and NaN elsewhere.

    Raises:
        NeedsError: If a label of ``fits_on`` is neither stored nor derivable, or holds a value for
            every atom.
        ConfigError: If a package that derives labels is missing.
    """
    known = {**derivable(), **data.fields}
    _check(data, known, fits_on)
    table = data.label_table(rows)
    scalars, tensors, units = dict(table.scalars), dict(table.tensors), dict(table.units)
    scalars_asked = [name for name in labels if name in known and known[name].shape == ()]
    for name in dict.fromkeys((*scalars_asked, *fits_on)):
        field = known[name]
        if field.per_atom or name in scalars:
            continue
        stored = name in data.fields
        places = np.arange(len(rows)) if stored else _even(len(rows), FIT_RECORDS[name])
        values = _values(data, rows, places, field)
        (tensors if field.shape else scalars)[name] = values
        units[name] = field.unit
        if not stored:
            _tell(name, values[places])
    return replace(table, scalars=scalars, tensors=tensors, units=units)


def _check(data: Data, known: Mapping[str, LabelField], fits_on: Collection[str]) -> None:
    """Refuses to fit on labels that cannot be had, or that have a value for every atom."""
    fitting = {name for name, field in known.items() if not field.per_atom}
    for name in fits_on:
        if name not in fitting:
            told = "has a value for every atom" if name in known else "cannot be had"
            raise NeedsError(
                f"the objective fits on the label {name!r}, which {told} in {data.location}; "
                f"{closest(name, fitting)}"
            )


def _values(
    data: Data,
    rows: np.ndarray,
    places: Int64[np.ndarray, " places"],
    field: LabelField,
) -> Float64[np.ndarray, "records ..."]:
    """Returns the values of one label in the records at ``places`` of ``rows``, NaN elsewhere."""
    name, stored = field.name, field.name in data.fields
    values = np.full((len(rows), *field.shape), np.nan)
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        for place, blob in zip(block.tolist(), data.read(rows[block]), strict=True):
            record = decode(blob) if stored else derive(decode(blob), (name,))
            if name in record.labels:
                values[place] = record.labels[name].value
    return values


def _even(count: int, most: int) -> Int64[np.ndarray, " places"]:
    """Returns at most ``most`` of ``count`` places, evenly spaced."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _tell(name: str, values: np.ndarray) -> None:
    missing = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
    logger.info(
        "the data set lacks the label %r: it is derived from the records; %d of %d that were tried "
        "cannot have it", name, missing, len(values),
    )  # fmt: skip
