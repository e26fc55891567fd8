"""Shapes in annotations are checked at run time, over every configured encoder and objective.

Not over the whole suite: a test that passes a wrong value on purpose expects the project's own
error, and would meet the checker's first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = (
    "epitaxy.encoders",
    "epitaxy.heads",
    "epitaxy.objectives",
    "epitaxy.graph.batch",
    "epitaxy.graph.collate",
    "epitaxy.graph.labels",
)
CHECKER = "shape_checker.checked"
SUITES = ("tests/contracts/test_encoders.py", "tests/contracts/test_objectives.py")
# Those that reach all of the code; the others only call it with other crystals.
CHOSEN = "it_is_an_encoder and made or an_empty or a_batch_are_sums or every_parameter and made"


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, ["tests/shared", os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], cwd=repository, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_the_contract_suites_keep_every_annotated_shape(repository: Path) -> None:
    option = f"--jaxtyping-packages={','.join([*PACKAGES, CHECKER])}"
    done = run(repository, "-m", "pytest", "-q", option, "-k", CHOSEN, *SUITES)
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_wrong_shape_is_caught(repository: Path) -> None:
    program = f"""
import jaxtyping
with jaxtyping.install_import_hook({PACKAGES!r}, {CHECKER!r}):
    from epitaxy.encoders.basis import cutoff_envelope
import torch
cutoff_envelope("poly6", torch.ones(3), 6.0)
try:
    cutoff_envelope("poly6", torch.ones(3, 1), 6.0)
except jaxtyping.TypeCheckError:
    print("caught")
"""
    done = run(repository, "-c", program)
    assert done.stdout == "caught\n", done.stderr
