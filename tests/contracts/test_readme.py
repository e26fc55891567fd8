"""Every command that the README shows exists, and its options are real."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMANDS_WITHIN_LINES = 40
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/bring_your_own_data.md",
    "docs/encoders.md",
    "docs/objectives.md",
    "docs/papers/crysgnn.md",
    "docs/papers/force_pretraining.md",
    "docs/papers/layer_transfer.md",
    "docs/papers/pt_ft_pairs.md",
    "docs/papers/roost_pretraining.md",
    "docs/shards.md",
    "docs/training.md",
)
FOREIGN = {"$EDITOR", "xdg-open", "cd", "export", "git", "pre-commit", "source", "tensorboard"}
RAY_COMMANDS = {"start", "stop", "get-auth-token", "job"}


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command line in the fenced bash blocks."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").replace("$DATA", "/data").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def check(words: list[str], repository: Path) -> None:
    """Raises if a command does not exist or takes other options."""
    program, *arguments = words
    if program == "make":
        assert {a for a in arguments if "=" not in a} <= make_targets(repository), words
    elif program == "epitaxy":
        check_verb(arguments[0], arguments[1:])
    elif program == "python":
        script = Path(arguments[0])
        assert (repository / script).is_file(), f"{script} does not exist"
        assert script.parts[0] == "jobs"
        check_verb(script.stem, arguments[1:])
    elif program == "ray":
        assert arguments[0] in RAY_COMMANDS, words
        check_ray_files(arguments, repository)
        if "--" in arguments:
            check(arguments[arguments.index("--") + 1 :], repository)
    elif program in ("kubectl", "docker"):
        flag = "-k" if program == "kubectl" else "--file"
        assert (repository / arguments[arguments.index(flag) + 1]).exists(), words
    else:
        assert program in FOREIGN, f"unknown command {program!r}"


def make_targets(repository: Path) -> set[str]:
    return set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text("utf-8"), re.M))


def check_ray_files(arguments: list[str], repository: Path) -> None:
    if "--runtime-env" in arguments:
        assert (repository / arguments[arguments.index("--runtime-env") + 1]).is_file()


def check_verb(verb: str, arguments: list[str]) -> None:
    from epitaxy.app.compose import compose
    from epitaxy.app.data_help import ACTIONS
    from epitaxy.app.help import VERBS
    from epitaxy.data.recipe import load_recipe

    assert verb in VERBS, verb
    if verb == "quickstart":
        return
    if verb == "data":
        assert arguments[0] in ACTIONS, arguments
        verb = f"data/{arguments[0]}"
    config = compose(verb, [a for a in arguments if "=" in a]).require()
    if verb == "prepare" and config["recipe"] != "mine.yaml":
        load_recipe(config["recipe"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists(document: str, repository: Path) -> None:
    found = list(commands((repository / document).read_text("utf-8")))
    assert len(found) >= 5
    for words in found:
        check(words, repository)


@pytest.mark.parametrize(
    "line",
    [
        "make quickstrt",
        "epitaxy pretrian data=x",
        "epitaxy pretrain data=x run.name=y encoder=cgcn",
        "epitaxy pretrain data=x run.name=y encodr=cgcnn",
        "epitaxy pretrain data=x",
        "epitaxy prepare recipe=nonsense source=x out=y",
        "python jobs/nonsense.py",
        "kubectl apply -k k8s/overlays/tpu",
        "rm -rf x",
    ],
)
def test_a_wrong_command_is_caught(line: str, repository: Path) -> None:
    from epitaxy.errors import EpitaxyError

    with pytest.raises((AssertionError, EpitaxyError)):
        check(shlex.split(line), repository)


def test_hooks_and_workflows_call_real_targets(repository: Path) -> None:
    files = [repository / ".pre-commit-config.yaml", repository / ".ci/run"]
    for path in [*files, *(repository / ".github/workflows").glob("*.yml")]:
        called = re.findall(r"\bmake (?:--\S+ )?([a-z]+)", path.read_text("utf-8"))
        assert set(called) <= make_targets(repository), path


def test_commands_come_early(repository: Path) -> None:
    lines = (repository / "README.md").read_text("utf-8").splitlines()
    early = "\n".join(lines[:COMMANDS_WITHIN_LINES])
    for command in ("make quickstart", "make test", "epitaxy pretrain", "epitaxy finetune"):
        assert command in early


@pytest.mark.parametrize("document", DOCUMENTS)
def test_local_links_lead_somewhere(document: str, repository: Path) -> None:
    text = (repository / document).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (repository / document).parent.joinpath(target).exists(), target
