"""What every text file of the project keeps to: valid YAML, small files, no private paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

MAX_FILE_BYTES = 1 * 2**20
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".cff", ".csv", ".json", ".txt", ".html", ""}
SKIPPED = {
    ".git",
    ".hypothesis",
    ".venv",
    "__pycache__",
    "dist",
    "site",
    "outputs",
    "runs",
    "quickstart",
}

# Assembled so that this file does not hold what it forbids.
FORBIDDEN = {
    "a path of one machine": re.compile("/" + r"(work|root|tmp/venv)/"),
    "a folder outside the checkout": re.compile(r"\.\./shared\b"),
    "an issue number": re.compile(r"\b([Ii]ssue|[Ff]ixes|[Cc]loses|PR) #?\d"),
    "a note to self": re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b"),
    "a conflict marker": re.compile(r"^(<{7}|>{7}) ", re.MULTILINE),
    "trailing white space": re.compile(r"[ \t]+$", re.MULTILINE),
}


def files(repository: Path) -> list[Path]:
    return sorted(
        path
        for path in repository.rglob("*")
        if path.is_file()
        and not SKIPPED & set(path.relative_to(repository).parts[:-1])
        and not any(part.endswith("_cache") for part in path.parts)
    )


def problems(text: str) -> list[str]:
    return [name for name, pattern in FORBIDDEN.items() if pattern.search(text)]


def test_no_text_speaks_of_one_machine_or_of_work_in_progress(repository: Path) -> None:
    found = [
        f"{path.relative_to(repository)}: {', '.join(wrong)}"
        for path in files(repository)
        if path.suffix in SUFFIXES and (wrong := problems(path.read_text("utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("see /wo" + "rk/main", "a path of one machine"),
        ("in ../sha" + "red/data", "a folder outside the checkout"),
        ("as in issue" + " 7", "an issue number"),
        ("fixes" + " #12", "an issue number"),
        ("x = 1  # TO" + "DO", "a note to self"),
        ("x = 1" + " \n", "trailing white space"),
    ],
)
def test_a_forbidden_text_is_caught(text: str, name: str) -> None:
    assert problems(text) == [name]


def test_references_to_other_projects_pass() -> None:
    assert problems("see pytorch#47562; color: #333; /mnt/shared/runs") == []


def test_no_file_is_large(repository: Path) -> None:
    large = [
        f"{path.relative_to(repository)}: {path.stat().st_size} bytes"
        for path in files(repository)
        if path.stat().st_size > MAX_FILE_BYTES
    ]
    assert not large, "\n".join(large)


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that a mapping already has; plain YAML keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {sorted(twice)} set twice")
        return super().construct_mapping(node, deep)


def test_yaml_files_are_valid(repository: Path) -> None:
    paths = [p for p in files(repository) if p.suffix in (".yaml", ".yml", ".cff")]
    assert len(paths) > 10
    for path in paths:
        try:
            list(yaml.load_all(path.read_text("utf-8"), StrictLoader))
        except yaml.YAMLError as error:
            pytest.fail(f"{path.relative_to(repository)}: {error}")


def test_a_key_set_twice_is_caught() -> None:
    with pytest.raises(yaml.YAMLError, match="set twice"):
        yaml.load("a: 1\nb: 2\na: 3\n", StrictLoader)
