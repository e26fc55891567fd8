"""The wheel holds the library with its configuration and data tables, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest

import epitaxy

MAX_WHEEL_BYTES = 3 * 2**20


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built by the back end itself, in this environment: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    done = subprocess.run(
        [*command, "--directory", str(folder)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def shipped(repository: Path) -> set[str]:
    """What the wheel must hold: the package, and the folders that become configuration."""
    sources = {
        "platform/epitaxy": "epitaxy",
        "datasets": "epitaxy/conf/recipe",
        "jobs/experiment": "epitaxy/conf/experiment",
    }
    return {
        f"{target}/{path.relative_to(repository / source).as_posix()}"
        for source, target in sources.items()
        for path in (repository / source).rglob("*")
        if path.is_file() and not is_cache(path)
    }


def is_cache(path: Path) -> bool:
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def test_the_wheel_holds_the_package_and_nothing_else(
    wheel: zipfile.ZipFile, repository: Path
) -> None:
    content = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert content == shipped(repository)


@pytest.mark.parametrize(
    "part",
    ["epitaxy/__init__.py", "epitaxy/py.typed", "epitaxy/conf/encoder/cgcnn.yaml"],
)
def test_the_wheel_holds_every_kind_of_file(wheel: zipfile.ZipFile, part: str) -> None:
    assert part in wheel.namelist()


def test_recipes_and_the_element_table_are_inside(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(n.startswith("epitaxy/conf/recipe/") and n.endswith(".yaml") for n in names)
    assert any("cgcnn92" in n and not n.endswith(".py") for n in names)


def test_an_installed_wheel_finds_its_experiments(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "from epitaxy.app.compose import compose\n"
        "from epitaxy.app.groups import further_folders\n"
        "composed = compose('pretrain', ['experiment=force_pretraining_0_1_1'])\n"
        "print(further_folders(), composed.choices['train'], composed.config['run']['name'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] force_pretraining force_pretraining_0_1_1"


def test_the_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    assert sum(item.compress_size for item in wheel.infolist()) < MAX_WHEEL_BYTES


def test_the_metadata_is_complete(wheel: zipfile.ZipFile) -> None:
    folder = f"epitaxy-{epitaxy.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == epitaxy.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    scripts = ConfigParser()
    scripts.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert scripts["console_scripts"]["epitaxy"] == "epitaxy.app.cli:main"


def test_every_dependency_is_pinned_for_ci(wheel: zipfile.ZipFile, repository: Path) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (repository / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    metadata = Parser().parsestr(
        wheel.read(f"epitaxy-{epitaxy.__version__}.dist-info/METADATA").decode()
    )
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt has no exact version of {requirement.name}"
        assert requirement.specifier.contains(version), f"{text} excludes the pinned {version}"


def test_the_license_is_the_unmodified_apache_license(repository: Path) -> None:
    import hashlib

    # The digest of https://www.apache.org/licenses/LICENSE-2.0.txt
    digest = hashlib.sha256((repository / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_versions_agree(repository: Path) -> None:
    citation = (repository / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {epitaxy.__version__}\n" in citation
