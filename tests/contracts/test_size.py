"""Files and functions stay small enough to be read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
ROOTS = ("platform", "jobs", "benchmarks", "tests")


def python_files(repository: Path) -> list[Path]:
    return sorted(path for root in ROOTS for path in (repository / root).rglob("*.py"))


def too_long(source: str, where: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{where}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                name = f"{where}:{node.lineno} {node.name}"
                yield f"{name}: {length} lines, at most {MAX_FUNCTION_LINES}"


def test_files_and_functions_are_short(repository: Path) -> None:
    files = python_files(repository)
    assert len(files) > 10
    found = [
        problem
        for path in files
        for problem in too_long(path.read_text("utf-8"), str(path.relative_to(repository)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("x = 1\n" * 400, 0),
        ("x = 1\n" * 401, 1),
        ("def f():\n" + "    x = 1\n" * 59, 0),
        ("def f():\n" + "    x = 1\n" * 60, 1),
        ("class A:\n    async def f(self):\n" + "        x = 1\n" * 60, 1),
    ],
)
def test_the_check_can_fail(source: str, count: int) -> None:
    assert len(list(too_long(source, "file.py"))) == count
