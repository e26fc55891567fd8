"""Structure fingerprints against planted duplicates, polymorphs and pymatgen, and their speed.

Crystals of the Materials Project (CrysXPP's table) are written down otherwise (``planted.py``) and
searched for among all of them. Pairs of one formula show how far polymorphs lie apart, and the
``StructureMatcher`` of pymatgen referees the closest ones. Times are CPU seconds of one core.

    python benchmarks/duplicates.py --prepared /tmp/mp_crysxpp
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.duplicates import buckets, find_duplicates, find_matches, load_fingerprints
from epitaxy.data.fingerprint import TOLERANCES, Fingerprints, distance
from epitaxy.data.recipe import load_recipe
from epitaxy.graph.record import CrystalRecord
from rounds import DEFAULT_DATA, RESULTS, machine

sys.path.append(str(Path(__file__).parents[1] / "tests" / "shared"))
from planted import KINDS, disguised

TABLE = Path("mp_crysxpp") / "mp_structures.csv.gz"
LARGEST = 100
"""Atoms of the crystals that are disguised."""

PATIENCE = 20
"""Seconds that the referee gets for a pair."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--prepared", help="folder of the prepared data set; made if missing")
    parser.add_argument("--planted", type=int, default=250, help="pairs of each kind")
    parser.add_argument("--referee", type=int, default=150, help="pairs of each sample")
    parser.add_argument("--out", type=Path, default=RESULTS / "duplicates.csv")
    arguments = parser.parse_args()
    data = Path(arguments.data or os.environ.get("EPITAXY_DATA", DEFAULT_DATA))
    if not (data / TABLE).is_file():
        sys.exit(f"no table at {data / TABLE}; give the folder of real data with --data")
    with tempfile.TemporaryDirectory() as folder:
        dataset = opened(data, Path(arguments.prepared or Path(folder) / "mp_crysxpp"))
        fingerprints, table = timed(dataset)
        table += planted_pairs(dataset, fingerprints, arguments.planted)
        table += polymorphs(dataset, fingerprints, arguments.referee)
    write(arguments.out, table)


def opened(data: Path, folder: Path) -> Dataset:
    """Returns the prepared table."""
    if not (folder / "manifest.json").is_file():
        prepare(str(data / TABLE), folder, recipe=load_recipe("mp_csv"), checks="off")
    return Dataset.open(folder)


def timed(dataset: Dataset) -> tuple[Fingerprints, list[dict[str, Any]]]:
    """Returns all fingerprints, and how long they and the search take."""
    Fingerprints.of([dataset.record(0)])  # compiles
    start = time.process_time()
    fingerprints = load_fingerprints(dataset)
    made = time.process_time()
    clusters = {level: find_duplicates(fingerprints, level=level) for level in ("same", "similar")}
    done = time.process_time()
    table = [
        row("speed", "crystals", len(dataset), ""),
        row("speed", "reading and fingerprints", made - start, "s"),
        row("speed", "search against themselves, both levels", done - made, "s"),
        row("speed", "size of the fingerprints", fingerprints.values.nbytes / 1e6, "MB"),
    ]
    for level, found in clusters.items():
        table.append(row("speed", f"clusters, {level}", len(found), ""))
        table.append(row("speed", f"records in them, {level}", sum(map(len, found)), ""))
    return fingerprints, table


def planted_pairs(dataset: Dataset, fingerprints: Fingerprints, count: int) -> list[dict[str, Any]]:
    """Returns recall and distances of disguised crystals, searched for among all crystals."""
    rng = np.random.default_rng(0)
    small = np.flatnonzero(np.asarray(dataset.num_atoms) <= LARGEST)
    table, strangers, hits, everything = [], [], 0, 0
    for kind, disguise in KINDS.items():
        rows = rng.choice(small, count * (4 if kind == "all" else 1), replace=False)
        copies = [disguised(dataset.record(int(r)), disguise, rng) for r in rows]
        found = Fingerprints.of(copies)
        apart = [distance(found[k], fingerprints[int(r)]) for k, r in enumerate(rows)]
        pairs = [
            (int(rows[k]), other)
            for match in find_matches(found, fingerprints)
            for k in match.first.tolist()
            for other in match.second.tolist()
        ]
        recalled = sum(one == other for one, other in pairs)
        hits, everything = hits + recalled, everything + len(rows)
        strangers += [(one, other) for one, other in pairs if one != other]
        table.append(
            row("planted", f"recall, {kind}", recalled / len(rows), f"share of {len(rows)}")
        )
        for name, value in (("median", np.median(apart)), ("largest", np.max(apart))):
            table.append(row("planted", f"{name} distance, {kind}", value, "Å"))
    verdicts = list(judged(dataset, strangers, strict=True))
    wrong = sum(verdict is False for verdict in verdicts)
    return [
        *table,
        row("planted", "recall, all kinds", hits / everything, f"share of {everything}"),
        row("planted", "matches with another crystal", len(strangers), ""),
        row("planted", "of these, other structures to pymatgen", wrong, ""),
        row("planted", "precision", 1 - wrong / (hits + len(strangers)), "share"),
    ]


def polymorphs(dataset: Dataset, fingerprints: Fingerprints, sample: int) -> list[dict[str, Any]]:
    """Returns how far crystals of one formula lie apart, and what pymatgen says of the nearest."""
    rng = np.random.default_rng(0)
    pairs = np.array(
        [
            (first, second)
            for members in buckets(fingerprints.formulas).values()
            for place, first in enumerate(members.tolist())
            for second in members[place + 1 :].tolist()
        ]
    )
    table = [row("polymorphs", "pairs of one formula", len(pairs), "")]
    for level, limit in TOLERANCES.items():
        apart = np.array([distance(fingerprints[a], fingerprints[b], level) for a, b in pairs])
        edges = [0, limit / 3, limit, 2 * limit, 4 * limit, 8 * limit, np.inf]
        for low, high in pairwise(edges):
            inside = np.flatnonzero((apart >= low) & (apart < high))
            where = f"{level}: {low:.3g} to {high:.3g}"
            table.append(row("polymorphs", f"pairs, {where}", len(inside), ""))
            chosen = rng.permutation(inside)[:sample]
            verdicts = list(judged(dataset, pairs[chosen].tolist(), strict=level == "same"))
            known = [verdict for verdict in verdicts if verdict is not None]
            share = np.mean(known) if known else np.nan
            table.append(
                row("polymorphs", f"matched by pymatgen, {where}", share, f"share of {len(known)}")
            )
    return table


def judged(
    dataset: Dataset, pairs: Sequence[Sequence[int]], *, strict: bool
) -> Iterator[bool | None]:
    """Yields pymatgen's verdict on each pair, none where it takes too long.

    ``strict`` is without scaling and with tolerances for rounding and strain only (one per cent of
    lengths, half a degree, 2 % of the free length per atom); otherwise pymatgen's defaults.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    if strict:
        matcher = StructureMatcher(ltol=0.01, stol=0.02, angle_tol=0.5, scale=False)

    def give_up(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    for pair in pairs:
        first, second = (structure_of(dataset.record(int(item))) for item in pair)
        signal.alarm(PATIENCE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verdict: bool | None = bool(matcher.fit(first, second))
        except TimeoutError:
            verdict = None
        finally:
            signal.alarm(0)
        yield verdict


def structure_of(record: CrystalRecord) -> Any:
    """Returns the crystal as pymatgen has it."""
    from pymatgen.core import Lattice, Structure

    species = record.numbers.tolist()
    return Structure(Lattice(record.cell), species, record.positions, coords_are_cartesian=True)


def row(part: str, quantity: str, value: float, unit: str) -> dict[str, Any]:
    """Returns a line of the table, which is printed at once."""
    print(f"{part:<11} {quantity:<45} {float(value):>12.5g} {unit}", flush=True)
    return {"part": part, "quantity": quantity, "value": f"{float(value):.6g}", "unit": unit}


def write(path: Path, table: list[dict[str, Any]]) -> None:
    """Writes the table, each row with command and machine."""
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*table[0], *origin], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, **origin} for line in table)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
