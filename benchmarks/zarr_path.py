"""CPU time of an epoch with 8 Å graphs: Zarr in blocks beside LMDB in random order.

Both are read through the stream in an order to train with: LMDB record by record, Zarr with
``batch.shuffle=blocks``. The real frames are repeated under other names, so that there are more
blocks than are kept decoded.

    python benchmarks/zarr_path.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.order import Shuffle
from epitaxy.data.plan import Plan
from epitaxy.data.stream import Stream
from epitaxy.graph.collate import collate
from epitaxy.graph.spec import GraphSpec
from rounds import data_folder, real_frames, report, rows, take_turns

SPEC = GraphSpec(cutoff=8.0)


def epoch(data: Dataset, plan: Plan) -> int:
    """Returns the edges of one epoch, read, checked, decoded and collated."""
    edges, fields = 0, tuple(data.fields.values())
    with Stream(plan, data, epochs=1) as stream:
        for share in stream:
            for blobs in share.micro_batches:
                records = [decode(blob) for blob in blobs]
                edges += collate(records, [SPEC], fields).graph(SPEC).num_edges
    return edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=917)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    frames = real_frames(data_folder(arguments.data), arguments.structures)
    records = [
        frame.replace(id=f"{frame.id}-{copy}")
        for copy in range(arguments.copies)
        for frame in frames
    ]
    orders = {
        "LMDB, records at random": ("lmdb", "records"),
        "LMDB, blocks": ("lmdb", "blocks"),
        "Zarr, blocks": ("zarr", "blocks"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for storage in ("lmdb", "zarr"):
            place = Path(folder) / storage
            prepare(records, place, format=storage, checks="off", progress=False)
        variants, edges = {}, set()
        for title, (storage, by) in orders.items():
            data = Dataset.open(Path(folder) / storage)
            plan = Plan(
                data.id_names.keys(),
                {"edges": data.num_edges(SPEC), "atoms": data.num_atoms},
                graphs=arguments.batch,
                shuffle=Shuffle(by),
                data_digest=data.data_digest,
            )
            variants[title] = lambda data=data, plan=plan: epoch(data, plan)
            edges.add(variants[title]())
        if len(edges) != 1:
            raise SystemExit(f"the orders disagree on the number of edges: {sorted(edges)}")
        seconds = take_turns(variants, arguments.rounds)
    report("zarr_path", list(rows(seconds, len(records), edges.pop(), cutoff=SPEC.cutoff)))


if __name__ == "__main__":
    main()
