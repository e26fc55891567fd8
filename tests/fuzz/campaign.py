"""Feeds the readers of stored bytes with as many damaged inputs as asked for, and counts outcomes.

    python tests/fuzz/campaign.py --inputs 1000000 --out benchmarks/results/fuzz.csv

Inputs are numbered: ``--first`` goes on where an earlier campaign ended, and a failure names the
target and the number that repeats it. Address space is limited, so that a reader that believes a
forged length ends in an error, and a child process per target shows a crash as what it is.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import random
import shlex
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from fuzzing.targets import limit_memory, make_targets

SHARES = {
    "codec.decode": 0.45,
    "codec.decode, checksum forged": 0.35,
    "codec.unpack": 0.12,
    "manifest": 0.06,
    "LMDB data set": 0.016,
    "Zarr data set": 0.002,
    "Zarr shard by ranges": 0.002,
}
ADDRESS_SPACE = 6 * 2**30


def feed(name: str, first: int, count: int, answers: Any) -> None:
    """Runs one target in this process and sends its outcomes, or what went wrong."""
    tracemalloc.start()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        target = make_targets(Path(folder))[name]
        limit_memory(ADDRESS_SPACE)
        start = time.process_time()
        for number in range(first, first + count):
            try:
                outcomes[target(random.Random(number))] += 1
            except BaseException as error:
                answers.put((name, number, f"{type(error).__name__}: {error}", {}, 0.0))
                return
    answers.put((name, first + count, "", dict(outcomes), time.process_time() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", choices=SHARES, help="only this one")
    parser.add_argument("--out", type=Path, help="table to write")
    arguments = parser.parse_args()
    shares = {arguments.target: 1.0} if arguments.target else SHARES
    context = multiprocessing.get_context("spawn")
    rows, failed = [], False
    for name, share in shares.items():
        answers, count = context.Queue(), max(1, round(share * arguments.inputs))
        child = context.Process(target=feed, args=(name, arguments.first, count, answers))
        child.start()
        while child.is_alive() and answers.empty():
            child.join(0.5)
        if answers.empty():
            trouble, outcomes, seconds = f"the process ended with {child.exitcode}", {}, 0.0
        else:
            _, number, trouble, outcomes, seconds = answers.get()
            trouble = trouble and f"input {number}: {trouble}"
        child.join()
        failed |= bool(trouble)
        kinds = {kind: outcomes.get(kind, 0) for kind in ("refused", "intact", "consistent")}
        rows.append({"target": name, "inputs": count, **kinds, "trouble": trouble,
                     "cpu_seconds": round(seconds, 1)})  # fmt: skip
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.out:
        origin = {
            "command": "python " + shlex.join(sys.argv),
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        }
        with arguments.out.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [*rows[0], *origin], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, **origin} for row in rows)
    sys.exit(failed)


if __name__ == "__main__":
    main()
