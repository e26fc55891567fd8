"""Runs a verb with the epitaxy of this checkout, wherever the job has been unpacked."""

from __future__ import annotations

import sys
from pathlib import Path


def run(verb: str) -> None:
    """Runs ``epitaxy <verb>`` with this process's arguments, and exits with its code.

    The checkout is preferred to an installed wheel: the code that was submitted is what runs.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
    from epitaxy.app.cli import main

    sys.exit(main([verb, *sys.argv[1:]]))
