"""The command ``epitaxy``: verbs, help, and errors in one clear message."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import epitaxy
from epitaxy.app.help import VERBS, main_help, verb_help
from epitaxy.errors import ConfigError, EpitaxyError, closest

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass
class _Command:
    """A parsed command line."""

    verb: str = ""
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
        return _run_quickstart(command)
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


def _configure_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("epitaxy").setLevel(logging.INFO)


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


def _say_error(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
