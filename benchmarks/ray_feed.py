"""CPU time per structure of two Ray Train workers fed by Ray Data, beside two plain processes.

Both sides train on nothing: they read their shares of the same plan, check them, build 8 Å graphs
and collate. The plain processes read by themselves (``compute.stream=direct``), the workers are fed
by Ray's read tasks (``compute.stream=ray``). Counted from the end of the first epoch to the end of
the last: the two processes; or every process of the Ray session, and of these the workers, actors
and read tasks alone. Rounds alternate.

    python benchmarks/ray_feed.py
"""

from __future__ import annotations

import argparse
import csv
import logging
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from epitaxy.data.codec import decode
from epitaxy.data.convert import prepare
from epitaxy.data.dataset import Dataset
from epitaxy.data.plan import Plan
from epitaxy.data.stream import Stream
from epitaxy.graph.collate import collate
from epitaxy.graph.spec import GraphSpec
from rounds import RESULTS, data_folder, machine, real_frames

SPEC = GraphSpec(cutoff=8.0)
WORLD = 2
BATCH = 128


def consume(folder: str, route: str, rank: int, epochs: int, mark: Callable[[], None]) -> int:
    """Reads one rank's shares, calling ``mark`` after the first epoch and at the end.

    Returns:
        Structures after the first epoch.
    """
    torch.set_num_threads(1)
    data = Dataset.open(folder)
    columns = {"edges": data.num_edges(SPEC), "atoms": data.num_atoms}
    plan = Plan(data.id_names.keys(), columns, graphs=BATCH, data_digest=data.data_digest)
    fields, counted, warm = tuple(data.fields.values()), 0, False
    with Stream(plan, data, route=route, rank=rank, world=WORLD, epochs=epochs) as stream:
        for share in stream:
            if not warm and share.cursor.epoch > 0:
                warm = True
                mark()
            for blobs in share.micro_batches:
                collate([decode(blob) for blob in blobs], [SPEC], fields)
                counted += len(blobs) * warm
    mark()
    return counted


def plain_rank(folder: str, rank: int, epochs: int, answers: Any) -> None:
    """One plain process."""
    marks: list[float] = []
    count = consume(folder, "direct", rank, epochs, lambda: marks.append(time.process_time()))
    answers.put((marks[1] - marks[0], count))


def plain(folder: str, epochs: int) -> dict[str, float]:
    """Returns CPU seconds and structures of two plain processes."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=plain_rank, args=(folder, rank, epochs, answers))
        for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    seconds, counts = zip(*(answers.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return {"cpu_seconds": sum(seconds), "structures": sum(counts)}


def ray_rank(config: dict[str, Any]) -> None:
    """One Ray Train worker; rank 0 looks at all processes while both wait for each other."""
    import ray.train
    import torch.distributed

    rank = ray.train.get_context().get_world_rank()
    marks: list[dict[str, float]] = []

    def mark() -> None:
        torch.distributed.barrier()
        if rank == 0:
            marks.append(session_seconds(config["driver"]))
        torch.distributed.barrier()

    count = consume(config["folder"], "ray", rank, config["epochs"], mark)
    counts = torch.tensor([count])
    torch.distributed.all_reduce(counts)
    if rank == 0:
        used = {kind: marks[1][kind] - marks[0][kind] for kind in marks[0]}
        lines = ",".join(f"{kind}={value}" for kind, value in used.items())
        Path(config["answer"]).write_text(f"{lines},structures={int(counts)}", encoding="utf-8")


def session_seconds(driver: int) -> dict[str, float]:
    """Returns CPU seconds so far: of all processes of the session, and of workers and tasks."""
    top = psutil.Process(driver)
    total, tasks = sum(top.cpu_times()[:4]), 0.0
    for process in top.children(recursive=True):
        try:
            with process.oneshot():
                seconds = sum(process.cpu_times()[:2])
                total += seconds
                tasks += seconds * process.cmdline()[0].startswith("ray::")
        except (psutil.Error, IndexError):  # it ended meanwhile
            continue
    return {"session_cpu_seconds": total, "cpu_seconds": tasks}


def fed_by_ray(folder: str, epochs: int, scratch: Path) -> dict[str, float]:
    """Returns CPU seconds and structures of two Ray Train workers."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        logging_level=logging.WARNING,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    answer = scratch / "answer"
    try:
        TorchTrainer(
            ray_rank,
            train_loop_config={
                "folder": folder, "epochs": epochs, "driver": os.getpid(), "answer": str(answer),
            },
            scaling_config=ScalingConfig(num_workers=WORLD, use_gpu=False),
            run_config=RunConfig(storage_path=str(scratch / "runs")),
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
    pairs = (line.split("=") for line in answer.read_text(encoding="utf-8").split(","))
    return {name: float(value) for name, value in pairs}


def write(table: list[dict[str, Any]]) -> None:
    """Writes the rounds so far."""
    with (RESULTS / "ray_feed.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of real data; default: EPITAXY_DATA")
    parser.add_argument("--structures", type=int, default=917)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    frames = real_frames(data_folder(arguments.data), arguments.structures)
    records = [
        frame.replace(id=f"{frame.id}-{copy}")
        for copy in range(arguments.copies)
        for frame in frames
    ]
    table: list[dict[str, Any]] = []
    origin = {"command": "python " + shlex.join(sys.argv), "machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "data")
        prepare(records, folder, checks="off", progress=False)
        for number in range(arguments.rounds):
            ours = plain(folder, arguments.epochs)
            fed = fed_by_ray(folder, arguments.epochs, Path(scratch))
            if ours["structures"] != fed["structures"]:
                raise SystemExit(f"{fed['structures']} structures came, not {ours['structures']}")
            each = [1e6 / ours["structures"] * s for s in (ours["cpu_seconds"], fed["cpu_seconds"])]
            session = 1e6 / fed["structures"] * fed["session_cpu_seconds"]
            table.append(
                {
                    "round": number,
                    "structures": int(ours["structures"]),
                    "plain_us": round(each[0], 2),
                    "ray_us": round(each[1], 2),
                    "ray_session_us": round(session, 2),
                    "share": round(each[0] / each[1], 3),
                    "session_share": round(each[0] / session, 3),
                    **origin,
                }
            )
            print({k: v for k, v in table[-1].items() if k not in origin}, flush=True)
            write(table)
    shares = np.array([row["share"] for row in table])
    print(f"fed by Ray: {np.median(shares):.0%} of plain [{shares.min():.0%}, {shares.max():.0%}]")


if __name__ == "__main__":
    main()
