"""The command line: help that teaches, one message per error, exit codes."""

import os
import re
import subprocess
import sys

import pytest

import epitaxy
from epitaxy.app import api
from epitaxy.app.cli import main
from epitaxy.app.help import VERBS
from epitaxy.errors import ConfigError


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == epitaxy.__version__
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert "cgcnn | cgcnn_attention" in text
    assert re.search(r"experiment .*force_pretraining_1_1_1 \| ", text)
    assert main([]) == 2


def test_help_needs_neither_torch_nor_ray():
    code = (
        "import sys; from epitaxy.app.cli import main; main(['--help']); "
        "main(['pretrain', '--help']); "
        "print({'torch', 'ray', 'mlflow'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"quickstart", "data"}))
def test_help_of_a_verb_lists_options_with_defaults(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert VERBS[verb] in text
    assert f"epitaxy {verb} " in text
    if verb in ("pretrain", "finetune", "sweep"):
        assert "loop.epochs=20                              Passes over the training split" in text
        assert "data=???" in text
        assert "train= (default default)" in text
        assert re.search(r"  gatgnn +GATGNN \(Louis", text)
        assert "experiment= (default null)" in text
        assert re.search(r"  force_pretraining_0_1_1 +Force pre-training of a CGCNN", text)
        assert re.search(r"encoder\.cutoff=\S+ +Å", text)


def test_every_example_of_the_help_composes(tmp_path):
    from epitaxy.app.compose import compose
    from epitaxy.app.help import _EXAMPLES

    commands = [command.split() for group in _EXAMPLES.values() for command in group]
    for _, verb, *words in commands:
        if verb == "data":
            verb = f"data/{words[0]}"
        compose(verb, [word for word in words if "=" in word]).require()


def test_every_option_is_explained():
    from epitaxy.app.compose import compose
    from epitaxy.app.help import _TEXT, _settings_texts, leaves

    texts = _TEXT | _settings_texts()
    groups = ("encoder.", "objective.", "finetune.")  # explained in their own files
    for verb in sorted(set(VERBS) - {"quickstart", "data"}):
        unexplained = [
            path
            for path, _ in leaves(compose(verb).config)
            if path not in texts and not path.startswith(groups)
        ]
        assert unexplained == [], verb


def test_cfg_prints_the_resolved_configuration(capsys):
    assert main(["pretrain", "--cfg", "loop.epochs=3", "data=x", "run.name=a"]) == 0
    assert "epochs: 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretran"], "error: no verb 'pretran'; did you mean 'pretrain'"),
        (["pretrain", "loop.epoch=3"], "did you mean 'loop.epochs'"),
        (["pretrain", "train=gatgn"], "no train 'gatgn'; did you mean 'gatgnn'"),
        (
            ["pretrain", "+experiment=force_pretrain_1_1_1"],
            "did you mean 'force_pretraining_1_1_1'",
        ),
        (["pretrain"], "error: data=… is missing"),
        (["registry"], "registry needs an action: list, show"),
        (["registry", "lst"], "did you mean 'list'"),
        (["--config-dir"], "--config-dir needs a folder"),
        (["prepare", "recipe=extxyz", "out=x"], "source=… is missing"),
        (["prepare", "recipe=extxy", "source=a", "out=x"], "did you mean 'extxyz'"),
        (["pretrain", "data=nowhere", "run.name=a", "compute=local"], "is not a prepared data set"),
        (["finetune", "data=x", "run.name=a", "objective.label=y"], "needs a model to start from"),
        (["registry", "show", "model=nope", "registry.uri=empty"], "no model 'nope'"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(
    words, message, capsys, epitaxy_home, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [*words, "tracking=null"] if words[0] in ("pretrain", "finetune") else words

    assert main(words) == 2

    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.startswith("error: ")


def test_debug_shows_the_traceback(monkeypatch):
    with pytest.raises(ConfigError):
        main(["pretrain", "--debug"])
    monkeypatch.setenv("EPITAXY_DEBUG", "1")
    with pytest.raises(ConfigError):
        main(["pretrain"])


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*overrides, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "pretrain", interrupted)
    assert main(["pretrain", "data=x", "run.name=a"]) == 130
    assert "run the same command to resume" in capsys.readouterr().err


def test_jobs_run_the_same_verbs(repository, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    job = repository / "jobs" / "registry.py"
    done = subprocess.run(
        [sys.executable, str(job), "list", f"registry.uri={tmp_path}/models"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["version", "aliases", "published", "digest"]
    for verb in set(VERBS) - {"quickstart", "data"}:
        assert (repository / "jobs" / f"{verb}.py").is_file()
