"""The command ``epitaxy``: verbs, help, and errors in one clear message."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import epitaxy
from epitaxy.app.help import VERBS, main_help, verb_help
from epitaxy.app.tables import columns, metrics_table, number
from epitaxy.errors import ConfigError, EpitaxyError, closest

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass
class _Command:
    """A parsed command line."""

    verb: str = ""
    action: str = ""
    words: list[str] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for an error, 130 for Ctrl-C."""
    debug = os.environ.get("EPITAXY_DEBUG", "") not in ("", "0")
    try:
        command = _parse(sys.argv[1:] if arguments is None else arguments)
        debug = debug or "--debug" in command.flags
        return _run(command)
    except EpitaxyError as error:
        if debug:
            raise
        _say_error(f"error: {error}")
        return EXIT_ERROR
    except KeyboardInterrupt:
        _say_error("interrupted: run the same command to resume")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(arguments: Sequence[str]) -> _Command:
    command, pending = _Command(), list(arguments)
    while pending:
        word = pending.pop(0)
        if word == "--config-dir" or word.startswith("--config-dir="):
            _, equals, folder = word.partition("=")
            if not equals and not pending:
                raise ConfigError("--config-dir needs a folder")
            command.config_dirs.append(folder if equals else pending.pop(0))
        elif word in ("--help", "-h"):
            command.flags.add("--help")
        elif word in ("--cfg", "--debug", "--version"):
            command.flags.add(word)
        elif not command.verb and not word.startswith("-"):
            command.verb = word
        elif command.verb == "data" and not command.action and "=" not in word:
            command.action = word
        else:
            command.words.append(word)
    if command.verb and command.verb not in VERBS:
        raise ConfigError(f"no verb {command.verb!r}; {closest(command.verb, VERBS)}")
    return command


def _run(command: _Command) -> int:
    if "--version" in command.flags:
        _say(epitaxy.__version__)
    elif not command.verb:
        if command.words:
            raise ConfigError(f"{command.words[0]!r} comes before a verb; see `epitaxy --help`")
        _say(main_help())
        return 0 if "--help" in command.flags else EXIT_ERROR
    elif command.verb == "quickstart":
        from epitaxy.app.quickstart import main as quickstart

        _configure_logging()
        return quickstart(command.words, "--help" in command.flags)
    elif command.verb == "data":
        return _run_data(command)
    elif "--help" in command.flags:
        from epitaxy.app.compose import compose

        composed = compose(command.verb, (), command.config_dirs)
        _say(
            verb_help(
                command.verb,
                composed.config,
                composed.choices,
                composed.options,
                command.config_dirs,
            )
        )
    elif "--cfg" in command.flags:
        from epitaxy.app.compose import compose, to_yaml

        overrides = [word for word in command.words if "=" in word]
        _say(to_yaml(compose(command.verb, overrides, command.config_dirs).config))
    else:
        _configure_logging()
        _VERBS[command.verb](command)
    return 0


def _run_data(command: _Command) -> int:
    from epitaxy.app.data_help import ACTIONS, action_help, overview

    if not command.action:
        _say(overview())
        return 0 if "--help" in command.flags else EXIT_ERROR
    if command.action not in ACTIONS:
        raise ConfigError(f"no action {command.action!r}; {closest(command.action, ACTIONS)}")
    from epitaxy.app.compose import compose, to_yaml

    verb = f"data/{command.action}"
    if "--help" in command.flags:
        _say(action_help(command.action, compose(verb, (), command.config_dirs).config))
    elif "--cfg" in command.flags:
        _say(to_yaml(compose(verb, command.words, command.config_dirs).config))
    else:
        from epitaxy.app.data_verbs import run

        _configure_logging()
        _say(run(command.action, command.words, command.config_dirs).text)
    return 0


def _configure_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("epitaxy").setLevel(logging.INFO)


def _prepare(command: _Command) -> None:
    from epitaxy.app import api

    manifest = api.prepare(*command.words, config_dirs=command.config_dirs)
    fields = ", ".join(f"{field.name} ({field.unit or 'no unit'})" for field in manifest.fields)
    _say(f"{manifest.num_records} records, labels: {fields or 'none'}")
    if manifest.skipped.count:
        _say(f"{manifest.skipped.count} bad records skipped; skipped.jsonl lists them")
    for rule, count in manifest.filtered.items():
        _say(f"{count} records left out: {rule}")
    for check in manifest.checks:
        _say(f"{check['verdict']:<13}{check['statement']}")
    _say(f"data digest {manifest.data_digest[:16]}")


def _train(command: _Command) -> None:
    from epitaxy.app import api

    verb = api.pretrain if command.verb == "pretrain" else api.finetune
    trained = verb(*command.words, config_dirs=command.config_dirs)
    _say(metrics_table(trained.metrics, trained.units))
    _say(f"run    {trained.directory}{' (resumed)' if trained.resumed else ''}")
    _say(f"model  {trained.model}")
    if trained.version:
        _say(f"published as {trained.version.reference}")


def _evaluate(command: _Command) -> None:
    from epitaxy.app import api

    evaluated = api.evaluate(*command.words, config_dirs=command.config_dirs)
    _say(evaluated.table())
    _say(f"written to {evaluated.directory}")


def _explain(command: _Command) -> None:
    from epitaxy.app import api

    explanation = api.explain(*command.words, config_dirs=command.config_dirs)
    _say(explanation.text())
    _say(f"written to {explanation.directory}")


def _encoders(command: _Command) -> None:
    from epitaxy.app import api
    from epitaxy.app.encoder_table import table

    _say(table(api.encoders(*command.words, config_dirs=command.config_dirs)))


def _objectives(command: _Command) -> None:
    from epitaxy.app import api
    from epitaxy.app.objective_table import table

    _say(table(api.objectives(*command.words, config_dirs=command.config_dirs)))


def _registry(command: _Command) -> None:
    from epitaxy.app import api

    if not command.words or "=" in command.words[0]:
        raise ConfigError(f"registry needs an action: {', '.join(api.REGISTRY_ACTIONS)}")
    action, *overrides = command.words
    outcome = api.registry(action, *overrides, config_dirs=command.config_dirs)
    if action == "list":
        rows = [(v.reference, ", ".join(v.aliases), v.created, v.digest[:12]) for v in outcome]
        _say(columns([("version", "aliases", "published", "digest"), *rows]))
    elif action in ("show", "pull"):
        _say(str(outcome))
    elif action == "import-foreign":
        _say(outcome.text())
    else:
        verdict = "verified" if action == "verify" else ", ".join(outcome.aliases)
        _say(f"{outcome.reference}  {verdict}".rstrip())


def _sweep(command: _Command) -> None:
    from epitaxy.app import api

    swept = api.sweep(*command.words, config_dirs=command.config_dirs)
    result = swept.result
    rows = result.rows()
    names = [*(name for name in rows[0] if "/" not in name), result.metric]
    names += [name for name in rows[0] if name.endswith("_mae")]
    header = [f"{name} ({unit})" if (unit := result.units.get(name)) else name for name in names]
    _say(columns([header, *([number(row.get(name, "")) for name in names] for row in rows)]))
    _say(f"best   {rows[0]['trial']}")
    _say(f"model  {result.trials[0].model}")
    _say(f"sweep  {result.directory}")
    if swept.version:
        _say(f"published as {swept.version.reference}")


def _report(command: _Command) -> None:
    from epitaxy.app import api

    _say(f"report {api.report(*command.words, config_dirs=command.config_dirs)}")


_VERBS: dict[str, Callable[[_Command], None]] = {
    "prepare": _prepare,
    "pretrain": _train,
    "finetune": _train,
    "evaluate": _evaluate,
    "explain": _explain,
    "encoders": _encoders,
    "objectives": _objectives,
    "registry": _registry,
    "sweep": _sweep,
    "report": _report,
}


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


def _say_error(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
