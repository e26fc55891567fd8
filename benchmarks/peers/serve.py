"""Runs one contestant of ``data_path.py`` in that program's own environment.

    python -m peers.serve MODULE:VARIANT frames.npz FOLDER

It fills its store, does a round that is not counted, and answers with a line of JSON; then one more
round and answer for every line it reads. Times are CPU seconds of this process on one thread.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from peers.frames import Frames


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what the program prints is no answer
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    module, variant = sys.argv[1].split(":")
    frames = Frames.load(Path(sys.argv[2]))
    folder = Path(sys.argv[3]) / f"{module}-{variant}"
    folder.mkdir()
    batch_of = importlib.import_module(f"peers.{module}").VARIANTS[variant](frames, folder)
    while True:
        start = time.process_time()
        edges = sum(int(batch_of(rows)) for rows in frames.batches)
        answer = {
            "cpu_seconds": time.process_time() - start,
            "edges": edges,
            "structures": len(frames),
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
