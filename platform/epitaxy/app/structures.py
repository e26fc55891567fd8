"""The few structures that a verb looks at one by one: of a prepared data set, or of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from epitaxy.app.paths import absolute
from epitaxy.app.readers import source_uri
from epitaxy.data.mixture import Data, open_data
from epitaxy.data.parse import Sieve
from epitaxy.data.recipe import Recipe, load_recipe
from epitaxy.data.sources.contract import BadRecord
from epitaxy.data.sources.files import expand
from epitaxy.data.validate import check_record
from epitaxy.errors import ConfigError, RecordError, SourceError
from epitaxy.graph.record import CrystalRecord


@dataclass(frozen=True)
class Chosen:
    """Records, and where they come from.

    Attributes:
        records: In the order asked for.
        location: Data set or source, for people.
        note: How many were taken of how many.
    """

    records: tuple[CrystalRecord, ...]
    location: str
    note: str


def choose(config: Mapping[str, Any]) -> Chosen:
    """Returns the records that ``ids``, ``index`` or ``limit`` choose from ``data`` or ``source``.

    Raises:
        ConfigError: If the options contradict one another, or there is nothing to choose from.
        RecordError: If there is no such record.
        SourceError: If a file, or a record that is reached in it, cannot be read.
    """
    if (config["data"] is None) == (config["source"] is None):
        raise ConfigError("give data=… (a prepared data set) or source=… with recipe=…, not both")
    if config["ids"] is not None and config["index"] is not None:
        raise ConfigError("give ids=[…] or index=[…], not both")
    limit = config["limit"]
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"limit must be a whole number from 1 on, got {limit!r}")
    chosen = _from_data(config) if config["data"] is not None else _from_source(config)
    if not chosen.records:
        raise ConfigError(f"{chosen.location} holds no structure")
    return chosen


def _from_data(config: Mapping[str, Any]) -> Chosen:
    dataset = open_data([absolute(path) for path in _listed(config["data"])])
    if config["ids"] is not None:
        rows = _rows(dataset, _listed(config["ids"]))
    elif config["index"] is not None:
        rows = _indices(config["index"])
        for row in rows:
            if row >= len(dataset):
                raise RecordError(
                    f"index {row}: {dataset.location} holds {len(dataset)} records, from 0 on"
                )
    else:
        rows = list(range(min(config["limit"], len(dataset))))
    records = tuple(dataset.record(row) for row in rows)
    note = _note(len(records), f"{len(dataset):,}", dataset.location, config)
    return Chosen(records, dataset.location, note)


def _rows(dataset: Data, ids: Sequence[str]) -> list[int]:
    """Returns the row of each id; of an id that several mixed data sets have, the first."""
    places = {identity: -row for row, identity in enumerate(reversed(dataset.ids.tolist()))}
    for identity in ids:
        if identity not in places:
            raise RecordError(f"{dataset.location} holds no record {identity!r}")
    return [len(dataset) - 1 + places[identity] for identity in ids]


def _from_source(config: Mapping[str, Any]) -> Chosen:
    if config["recipe"] is None:
        raise ConfigError(
            "source=… needs recipe=…, which says how to read it; see `epitaxy prepare`"
        )
    uri, left_out = source_uri(config["source"]), Counter[str]()
    records = _records(uri, load_recipe(str(config["recipe"])), left_out)
    if config["ids"] is not None:
        found = _picked(((record.id, record) for record in records), _listed(config["ids"]), uri)
        note = f"{_structures(len(found))} of {uri}"
    elif config["index"] is not None:
        found = _picked(enumerate(records), _indices(config["index"]), uri)
        note = f"{_structures(len(found))} of {uri}"
    else:
        found = list(islice(records, config["limit"]))
        total = f"{len(found):,}" if next(records, None) is None else "more"
        note = _note(len(found), total, uri, config)
    for rule, count in left_out.items():
        note += f"; {count} passed over on the way, which the recipe leaves out: {rule}"
    return Chosen(tuple(found), uri, note)


def _records(uri: str, recipe: Recipe, left_out: Counter[str]) -> Iterator[CrystalRecord]:
    """Yields the records that a recipe keeps, and counts those that it leaves out.

    Labels may be missing: what looks at structures one by one needs none.

    Raises:
        SourceError: At one that cannot be read.
    """
    lenient = {name: replace(rule, optional=True) for name, rule in recipe.fields.items()}
    source = replace(recipe, fields=lenient).open_source()
    sieve = Sieve.from_dict(recipe.filter)
    for path in expand(uri):
        for item in source.read(path):
            if isinstance(item, BadRecord):
                raise SourceError(
                    f"{item.where}: {item.error}; `epitaxy prepare … on_error=skip` leaves such "
                    "records out, then give data=…"
                ) from item.error
            if rule := sieve.broken(item):
                left_out[rule] += 1
                continue
            check_record(item)
            yield item


def _picked(
    named: Iterable[tuple[Any, CrystalRecord]], wanted: Sequence[Any], uri: str
) -> list[CrystalRecord]:
    """Returns the wanted records in the order asked for; reads no further than needed."""
    missing, found = set(wanted), {}
    for name, record in named:
        if name in missing:
            found[name] = record
            missing.discard(name)
        if not missing:
            break
    if missing:
        raise RecordError(f"{uri} holds no record {min(missing)!r}")
    return [found[name] for name in wanted]


def _note(taken: int, total: str, location: str, config: Mapping[str, Any]) -> str:
    if config["ids"] is not None or config["index"] is not None:
        return f"{taken:,} of {total} structures of {location}"
    if total == f"{taken:,}":
        return f"all {_structures(taken)} of {location}"
    of = "" if total == "more" else f"of {total} "
    remedy = f"limit={taken}: a larger limit= takes more, ids= or index= take others"
    return f"the first {taken:,} {of}structures of {location} ({remedy})"


def _structures(count: int) -> str:
    return f"{count:,} structure{'' if count == 1 else 's'}"


def _listed(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _indices(value: Any) -> list[int]:
    indices = value if isinstance(value, list) else [value]
    for index in indices:
        if not isinstance(index, int) or index < 0:
            raise ConfigError(f"index takes whole numbers from 0 on, got {index!r}")
    return indices
