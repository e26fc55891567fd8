"""Imports point one way, and heavy or optional packages stay at their one place.

The graph is read from the syntax trees, so imports inside functions count as well.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BASE = {"errors", "shapes", "units", "build", "foreign"}
MODEL = {"encoders", "heads", "objectives"}

# Folder (or module of the root) -> folders it may import, besides itself.
ALLOWED: dict[str, set[str]] = {
    "": set(),  # epitaxy/__init__.py
    "errors": set(),
    "shapes": {"errors"},
    "units": {"errors"},
    "build": {"errors"},
    "foreign": BASE,
    "graph": BASE,
    "data": BASE | {"graph"},
    "encoders": BASE | {"graph"},
    "heads": BASE | {"graph", "encoders"},
    "objectives": BASE | {"graph", "encoders", "heads"},
    "finetune": BASE | {"graph"} | MODEL,
    "distill": BASE | {"graph", "data"} | MODEL,
    "conf": set(),
}
ALLOWED["train"] = BASE | MODEL | {"graph", "data", "finetune", "distill"}
ALLOWED["registry"] = ALLOWED["train"] | {"train"}
ALLOWED["predict"] = ALLOWED["registry"]
ALLOWED["tune"] = ALLOWED["registry"] | {"registry", "predict"}
ALLOWED["report"] = ALLOWED["tune"]
ALLOWED["app"] = ALLOWED["tune"] | {"tune", "report", "conf"}
ALLOWED["jobs"] = {"app"}

# In these folders a part, which is what some configuration names, is imported by no neighbour.
SIBLINGS = ("encoders", "objectives", "finetune", "distill", "data.sources")

# Package -> places (module prefixes) that may import it.
PLACES: dict[str, tuple[str, ...]] = {
    "ray": (
        "data.convert",
        "data.stream",
        "train.worker",
        "train.launch",
        "tune.",
        "predict.embed",
        "app.",
        "jobs.",
    ),
    "hydra": ("app.",),
    "omegaconf": ("app.",),
    "lmdb": ("data.lmdb_shard", "foreign.child."),
    "zarr": ("data.zarr_shard",),
    "pymatgen": ("data.", "foreign."),
    "matminer": ("data.", "foreign."),
    "mendeleev": ("data.", "foreign."),
    "ase": ("data.sources.", "predict.calculator"),
    "mlflow": ("train.tracking", "registry."),
    "pickle": ("foreign.",),
    "cloudpickle": ("foreign.",),
    "dill": ("foreign.",),
    "joblib": ("foreign.",),
    "marshal": ("foreign.",),
    "shelve": ("foreign.",),
}

# Modules that must also run without Ray: they import it inside functions only.
LAZY_RAY = ("data.stream", "data.stream_ray", "train.worker", "train.launch")

# Modules that stay small enough to be loaded in every Ray read task.
WITHOUT_TORCH = ("epitaxy.graph.record", "epitaxy.graph.spec", "epitaxy.data.codec")

ABSENT = ("ray", "hydra", "omegaconf", "lmdb", "zarr")
RUNS_WITHOUT = ("graph", "encoders", "heads", "objectives", "finetune", "distill", "train")


def modules(repository: Path) -> dict[str, Path]:
    """Dotted name without ``epitaxy.`` -> file; ``jobs/x.py`` is ``jobs.x``."""
    found = {}
    for folder, prefix in (("platform/epitaxy", ""), ("jobs", "jobs.")):
        root = repository / folder
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[prefix + ".".join(parts)] = path
    return found


def imports(tree: ast.AST, module: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (dotted name, line, at module level) of each import."""
    top = {id(node) for node in getattr(tree, "body", [])}
    package = ["epitaxy", *module.split(".")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno, id(node) in top


def parts(repository: Path) -> set[str]:
    """Modules that a ``_target_`` of the shipped configuration names, without ``epitaxy.``."""
    texts = [
        path.read_text("utf-8")
        for folder in ("platform/epitaxy/conf", "datasets", "jobs")
        for path in (repository / folder).rglob("*.yaml")
    ]
    return set(re.findall(r"_target_:\s*[\"']?epitaxy\.([\w.]+)\.\w+", "\n".join(texts)))


def violations(source: str, module: str, parts: set[str]) -> Iterator[str]:
    """Yields each forbidden import of ``module``."""
    tree = ast.parse(source)
    for name, line, top in imports(tree, module):
        where = f"{module}:{line}"
        root, _, inner = name.partition(".")
        if root == "epitaxy":
            yield from _inner(module, inner, where, parts)
        if root in PLACES and not module.startswith(PLACES[root]):
            yield f"{where} imports {root}, allowed only in {', '.join(PLACES[root])}"
        if root == "ray" and top and module in LAZY_RAY:
            yield f"{where} imports ray at module level; import it inside the function"
    yield from _unpickling(tree, module)


def _inner(module: str, inner: str, where: str, parts: set[str]) -> Iterator[str]:
    source, target = folder(module), folder(inner)
    if target and target != source and target not in ALLOWED.get(source, set()):
        yield f"{where} imports epitaxy.{inner}: {source or 'epitaxy'} must not know {target}"
    for part in parts & {inner, inner.rpartition(".")[0]}:
        home = part.rpartition(".")[0]
        if home in SIBLINGS and module.startswith(home + ".") and module != part:
            yield f"{where} imports its sibling epitaxy.{part}; move what they share down"


def _unpickling(tree: ast.AST, module: str) -> Iterator[str]:
    if module.startswith("foreign."):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            yield f"{module}:{node.lineno} uses torch.load, which unpickles"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node):
            yield f"{module}:{node.value.lineno} allows pickles"


def _is_false(node: ast.keyword) -> bool:
    return isinstance(node.value, ast.Constant) and node.value.value is False


def folder(module: str) -> str:
    """First part of a dotted name; the root package itself is the empty string."""
    first = module.split(".")[0]
    return "" if first in ("__init__", "__version__") else first


def test_imports_follow_the_layers(repository: Path) -> None:
    files = modules(repository)
    assert len(files) > 20
    unknown = {folder(name) for name in files} - set(ALLOWED)
    assert not unknown, f"folders without a layer: {unknown}"
    named = parts(repository)
    assert "encoders.cgcnn" in named
    found = [
        problem
        for name, path in files.items()
        for problem in violations(path.read_text("utf-8"), name, named)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graph.collate", "from epitaxy.data.dataset import Dataset"),
        ("graph.collate", "def f():\n    from epitaxy import data"),
        ("data.plan", "import epitaxy.train.settings"),
        ("finetune.full", "from epitaxy.data.dataset import Dataset"),
        ("registry.card", "from epitaxy.predict.predictor import Predictor"),
        ("encoders.foo", "from epitaxy.encoders.cgcnn import CGCNN"),
        ("encoders.foo", "from epitaxy.encoders import cgcnn"),
        ("encoders.foo", "from .cgcnn import CGCNN"),
        ("train.loop", "import ray.train"),
        ("train.loop", "def f():\n    from ray import train"),
        ("train.launch", "import ray"),
        ("data.dataset", "import lmdb"),
        ("heads.scalar", "import hydra.utils"),
        ("report.plots", "from ase.io import read"),
        ("data.codec", "import pickle"),
        ("train.checkpoint", "import torch\nx = torch.load('x')"),
        ("data.dataset", "import numpy as np\nx = np.load('x', allow_pickle=True)"),
        ("jobs.pretrain", "from epitaxy.train.launch import launch"),
        ("__init__", "from epitaxy.graph.record import CrystalRecord"),
    ],
)
def test_a_forbidden_import_is_caught(module: str, source: str) -> None:
    assert list(violations(source, module, {"encoders.cgcnn"}))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.launch", "def f():\n    import ray"),
        ("tune.sweep", "from ray import tune"),
        ("encoders.foo", "from epitaxy.encoders.contract import Encoder"),
        ("encoders.foo", "from epitaxy.encoders import basis"),
        ("objectives.foo", "from epitaxy.heads.scalar import ScalarHead"),
        ("train.loop", "from epitaxy.data.plan import Plan"),
        ("data.sources.foo", "import ase.io"),
        ("foreign.unpickle", "import pickle"),
        ("app.cli", "import hydra\nfrom epitaxy.report.html import write"),
        ("jobs.pretrain", "from epitaxy.app.cli import main"),
        ("report.html", "from epitaxy import __version__"),
        ("data.dataset", "import numpy as np\nx = np.load('x', allow_pickle=False)"),
    ],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    assert not list(violations(source, module, {"encoders.cgcnn"}))


def test_source_roots_are_not_packages(repository: Path) -> None:
    for name in ("platform", "datasets"):
        # With an __init__.py, `import platform` (and so `import uuid`) dies from the checkout.
        assert not (repository / name / "__init__.py").exists()


def test_importing_epitaxy_loads_neither_torch_nor_ray() -> None:
    assert _loaded_by("epitaxy", "torch", "ray", "numpy") == ""


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_read_tasks_do_not_load_torch(module: str) -> None:
    assert _loaded_by(module, "torch", "ray") == ""


def test_science_runs_without_ray_hydra_and_stores(repository: Path) -> None:
    wanted = [
        f"epitaxy.{name}".removesuffix(".__init__")
        for name in modules(repository)
        if folder(name) in RUNS_WITHOUT and name not in ("train.worker", "train.launch")
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
    )
    assert _run(program) == ""


def _loaded_by(module: str, *heavy: str) -> str:
    return _run(
        f"import sys, {module}\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], sep=',', end='')"
    )


def _run(program: str) -> str:
    """Output and errors of ``program`` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return done.stdout + (done.stderr if done.returncode else "")
