"""CPU time from encoded record to batch: edges built every time against edges from the cache.

python benchmarks/edge_cache.py --structures 256
"""

from __future__ import annotations

import argparse
from functools import partial

from epitaxy.data.codec import decode, encode
from epitaxy.data.edge_cache import EdgeCache
from epitaxy.graph.batch import CrystalBatch
from epitaxy.graph.collate import collate
from epitaxy.graph.spec import GraphSpec
from rounds import data_folder, real_frames, report, rows, take_turns

BATCH = 32


def batches(blobs: list[bytes], spec: GraphSpec, cache: EdgeCache | None) -> list[CrystalBatch]:
    """Returns every structure in batches with its graph."""
    made = []
    for first in range(0, len(blobs), BATCH):
        records = [decode(blob) for blob in blobs[first : first + BATCH]]
        batch = collate(records, () if cache else (spec,))
        made.append(batch.replace(graphs={spec: cache.graph(spec, records)}) if cache else batch)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data sets; default EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    blobs = [encode(r) for r in real_frames(data_folder(options.data), options.structures)]
    table = []
    for cutoff in (5.0, 8.0):
        spec, cache = GraphSpec(cutoff=cutoff), EdgeCache(10**9)
        edges = sum(batch.graph(spec).num_edges for batch in batches(blobs, spec, cache))
        kept = {"cutoff": cutoff, "bytes_per_structure": cache.size // len(blobs)}
        seconds = take_turns(
            {
                "edges from the cache": partial(batches, blobs, spec, cache),
                "edges built": partial(batches, blobs, spec, None),
            },
            options.rounds,
        )
        table += rows(seconds, len(blobs), edges, **kept)
    report("edge_cache", table)


if __name__ == "__main__":
    main()
