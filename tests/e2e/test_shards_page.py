"""The examples of docs/shards.md, run from top to bottom as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from epitaxy.app.cli import main
from epitaxy.data.dataset import Dataset


def examples(page: str) -> list[list[str]]:
    """Words of every command in its bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_every_example_works(
    repository: Path, tmp_path: Path, epitaxy_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = examples((repository / "docs" / "shards.md").read_text(encoding="utf-8"))
    assert len(commands) == 8
    for program, *words in commands:
        assert program == "epitaxy"
        assert main(words) == 0, words
    grown = Dataset.open("data/frames")
    assert (len(Dataset.open("data/frames", version=1)), len(grown)) == (60, 96)
    back = Dataset.open("data/back")
    zarr = Dataset.open("local://bucket/frames-zarr")
    assert zarr.data_digest == back.data_digest == grown.data_digest
    assert len(Dataset.open("data/back", version=1)) == 60
    assert zarr.read([95, 3]) == grown.read([95, 3])
