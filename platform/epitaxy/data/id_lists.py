"""Lists of record ids that others made: plain lists, text files, tables, and benchmark folds.

The formats that are understood:

* JSON ``{"train": [ids], "val": […], "test": […]}``; an object ``{id: target}`` stands for the
  list of its ids, ``id_train`` (ALIGNN) and ``validation`` for ``train`` and ``val``;
* JSON folds, ``{"fold_0": {"train": [ids], "test": [ids]}, …}``, bare or by task, and with
  anything around it under ``splits``, as MatBench publishes them;
* a folder with ``train.txt``, ``val.txt`` and ``test.txt``, one id per line;
* a table ``.csv`` or ``.tsv`` with the columns ``id`` and ``split``.

Text and tables may be compressed (``.gz``, ``.bz2``, ``.xz``).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from epitaxy.data.sources.files import open_text
from epitaxy.data.split_rules import SPLITS
from epitaxy.errors import ConfigError, PlanError, SourceError, closest

_ALIASES = {"valid": "val", "validation": "val"}
_PACKING = (".gz", ".bz2", ".xz", ".zip")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TABLE_COLUMNS = ("id", "split")
_SHOWN = 12


@dataclass(frozen=True)
class IdLists:
    """Ids by split, as a file names them.

    Attributes:
        lists: Ids of ``train``, ``val`` and ``test``; no id occurs twice.
        needs_val: Whether it is a fold of train and test only, whose training part is meant to
            be divided further.
    """

    lists: Mapping[str, list[str]]
    needs_val: bool = False


def read_id_lists(file: Path, *, fold: int | None = None, task: str | None = None) -> IdLists:
    """Returns the id lists of a split file or folder.

    Args:
        file: Where they stand.
        fold: Which fold; may be left out if there is one.
        task: Which task of a benchmark; may be left out if there is one.

    Raises:
        ConfigError: If it cannot be read or understood, or fold or task do not fit.
        PlanError: If an id is listed twice.
    """
    where = f"split file {file}"
    ending = _ending(file)
    if file.is_dir() or ending in _DELIMITERS:
        _refuse_folds(where, fold, task)
        lists = _read_folder(file) if file.is_dir() else _read_table(file, _DELIMITERS[ending])
        found = IdLists(lists)
    elif ending == ".txt":
        raise ConfigError(
            f"{where} is one list; name the folder that holds train.txt, val.txt and test.txt"
        )
    else:
        found = _understand(read_json_object(file, where), where, fold, task)
    check_disjoint(found.lists, where)
    return found


def check_disjoint(lists: Mapping[str, Iterable[str]], where: str) -> None:
    """Refuses lists that name an id twice.

    Raises:
        PlanError: Naming the id and both splits.
    """
    seen: dict[str, str] = {}
    for name, listed in lists.items():
        for item in listed:
            if item in seen:
                raise PlanError(
                    f"{where} lists {item!r} in {seen[item]} and again in {name}; "
                    "every record belongs to one split at most"
                )
            seen[item] = name


def read_id_lines(file: Path, what: str) -> list[str]:
    """Returns the ids of a text file, one per line; empty lines do not count.

    Raises:
        ConfigError: If the file cannot be read; ``what`` says what it was to be.
    """
    lines = _read(file, what).splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_json_object(file: Path, what: str) -> dict[str, Any]:
    """Returns the object in a JSON file, which may be compressed.

    Raises:
        ConfigError: If it cannot be read, or holds no object; ``what`` says what it was to be.
    """
    text = _read(file, what)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{what} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{what} must hold an object of id lists, got {type(content).__name__}")
    return content


def _read(file: Path, what: str) -> str:
    try:
        with open_text(str(file)) as stream:
            return stream.read()
    except (OSError, SourceError) as error:
        raise ConfigError(f"{what} cannot be read: {error}") from error


def _ending(file: Path) -> str:
    name = Path(file.stem) if file.suffix in _PACKING else file
    return name.suffix.lower()


def _split_name(key: str) -> str | None:
    """Returns the split that ``key`` stands for: ``id_train`` and ``Validation`` do."""
    name = key.strip().lower().removeprefix("id_")
    name = _ALIASES.get(name, name)
    return name if name in SPLITS else None


def _resembles(key: str) -> bool:
    return bool(get_close_matches(key.lower(), SPLITS, n=1, cutoff=0.7))


def _refuse_folds(where: str, fold: int | None, task: str | None) -> None:
    for name, value in (("fold", fold), ("task", task)):
        if value is not None:
            raise ConfigError(f"{where} holds no {name}s; leave split.{name}={value} out")


def _understand(
    content: Mapping[str, Any], where: str, fold: int | None, task: str | None
) -> IdLists:
    if isinstance(content.get("splits"), Mapping):
        content = content["splits"]
    folds = _folds(content)
    tasks = {name: found for name, value in content.items() if (found := _folds(value))}
    if not folds and not tasks:
        _refuse_folds(where, fold, task)
        return IdLists(_lists(content, where))
    if tasks and not folds:
        folds = tasks[_choose_task(tasks, where, task)]
    elif task is not None:
        raise ConfigError(f"{where} holds folds of one task; leave split.task={task} out")
    name = _choose_fold(folds, where, fold)
    lists = _lists(folds[name], f"{where}, {name}")
    return IdLists(lists, needs_val=not any(_split_name(key) == "val" for key in folds[name]))


def _folds(content: Any) -> dict[str, Mapping[str, Any]]:
    """Returns the entries that are folds: objects with lists under names of splits."""
    if not isinstance(content, Mapping) or any(_split_name(str(key)) for key in content):
        return {}
    return {
        str(name): entry
        for name, entry in content.items()
        if isinstance(entry, Mapping)
        and any(_split_name(str(key)) and _is_list(value) for key, value in entry.items())
    }


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, Mapping))


def _choose_task(tasks: Mapping[str, Any], where: str, task: str | None) -> str:
    if task is None and len(tasks) > 1:
        names = sorted(tasks)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ConfigError(
            f"{where} holds {len(names)} tasks ({', '.join(names[:_SHOWN])}{more}); choose one "
            f"with split.task={names[0]}"
        )
    chosen = next(iter(tasks)) if task is None else task
    if chosen not in tasks:
        raise ConfigError(f"{where} has no task {chosen!r}; {closest(chosen, tasks)}")
    return chosen


def _choose_fold(folds: Mapping[str, Any], where: str, fold: int | None) -> str:
    numbers = {int(match[0]): name for name in folds if (match := re.search(r"\d+$", name))}
    if fold is None and len(folds) == 1:
        return next(iter(folds))
    known = ", ".join(str(number) for number in sorted(numbers)) or "none that has a number"
    if fold is None:
        raise ConfigError(f"{where} holds {len(folds)} folds; choose one with split.fold: {known}")
    if fold not in numbers:
        raise ConfigError(f"{where} has no fold {fold}; known: {known}")
    return numbers[fold]


def _lists(content: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    """Returns the lists of an object; what is neither list nor object beside them is passed by."""
    lists: dict[str, list[str]] = {name: [] for name in SPLITS}
    found = False
    for key, value in content.items():
        name = _split_name(str(key))
        if name is None:
            if isinstance(value, list) or (isinstance(value, Mapping) and _resembles(str(key))):
                raise ConfigError(f"{where} has a key {key!r}; {closest(str(key), SPLITS)}")
            continue
        items = list(value) if isinstance(value, Mapping) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ConfigError(f"{where}: {key!r} must be a list of record ids (strings)")
        lists[name] += items
        found = True
    if not found:
        keys = ", ".join(repr(key) for key in list(content)[:_SHOWN]) or "nothing"
        raise ConfigError(
            f"{where} must hold id lists under train, val and test, or folds of them; it has {keys}"
        )
    return lists


def _read_folder(folder: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {name: [] for name in SPLITS}
    files = [path for path in sorted(folder.iterdir()) if _ending(path) == ".txt"]
    used = 0
    for path in files:
        name = _split_name(path.name.partition(".")[0])
        if name is not None:
            lists[name] += read_id_lines(path, f"split file {path}")
            used += 1
    if not used:
        raise ConfigError(
            f"split folder {folder} holds no train.txt, val.txt or test.txt (one id per line)"
        )
    return lists


def _read_table(file: Path, delimiter: str) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {name: [] for name in SPLITS}
    reader = csv.DictReader(_read(file, f"split file {file}").splitlines(), delimiter=delimiter)
    columns = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
    for column in _TABLE_COLUMNS:
        if column not in columns:
            found = ", ".join(columns) or "none"
            raise ConfigError(f"split file {file} needs the columns id and split, it has: {found}")
    for row in reader:
        identity, split = (str(row[columns[column]] or "").strip() for column in _TABLE_COLUMNS)
        name = _split_name(split)
        if not identity or (split and name is None):
            raise ConfigError(
                f"split file {file}, line {reader.line_num}: expected an id and train, val, test "
                f"or nothing, got {identity!r} and {split!r}"
            )
        if name is not None:
            lists[name].append(identity)
    return lists
