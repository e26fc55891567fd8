"""One process of a group that the tests keep alive: does tasks that arrive as lines of JSON.

Started by ``conftest.Peers``; answers each task with one line of JSON on the real stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from epitaxy.build import build
from epitaxy.data.codec import decode, unpack
from epitaxy.train import collective
from epitaxy.train.assemble import Assembler
from epitaxy.train.checkpoint import build_model
from epitaxy.train.step import Stepper
from epitaxy.train.worker import train_worker


def task_gradients(
    rank: int,
    *,
    records: str,
    encoder: dict[str, Any],
    objective: dict[str, Any],
    deal: list[list[list[int]]],
    result: str,
    teacher: dict[str, Any] | None = None,
    skip: bool = False,
) -> dict[str, Any]:
    """One step; ``deal[rank][micro_batch]`` lists this rank's records."""
    torch.manual_seed(0)
    goal = build(objective)
    if teacher is not None:
        goal.receive(build(teacher).to(torch.float64).eval().requires_grad_(False))
    model = build_model(build(encoder), goal).to(torch.float64)
    model.train()
    blobs = unpack(Path(records).read_bytes())
    names = {n: label.field(n) for blob in blobs for n, label in decode(blob).labels.items()}
    fields = tuple(names.get(name) or _FIELDS[name] for name in goal.labels)
    assembler = Assembler(goal, model.encoder.spec, fields, torch.float64, seed=0)
    batches = [assembler.views([blobs[i] for i in part], 0, "views") for part in deal[rank]]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    stepper = Stepper(model, goal, optimizer, skip_non_finite=skip)
    report = stepper(batches, "epoch 0, step 0")
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    state = {f"after {name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(f"{result}-{rank}.npz", **gradients, **state)
    return {
        "norm": report.grad_norm,
        "records": report.records,
        "means": report.terms.means(),
        "factors": report.factors,
        "skipped": report.skipped,
    }


def task_train(rank: int, *, config: dict[str, Any]) -> dict[str, Any]:
    del rank
    train_worker(config)
    return {}


def task_collective(rank: int) -> dict[str, Any]:
    tensors = [torch.full((3, 2), rank + 1.0), torch.arange(4, dtype=torch.float64) * (rank + 1)]
    collective.sum_tensors(tensors)
    return {
        "sums": collective.sum_numbers({"b": rank, "a": 1}),
        "tensors": [tensor.flatten().tolist() for tensor in tensors],
        "broadcast": collective.broadcast({"from": rank}),
        "gather": collective.gather(rank * 10),
    }


def main(rank: int) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write to the answers
    sys.path.append(str(Path(__file__).parents[1] / "shared"))  # objectives made for tests
    torch.set_num_threads(1)
    for line in sys.stdin:
        task = json.loads(line)
        store = f"file://{task['store']}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=task["world"])
        try:
            answer = {"value": globals()[f"task_{task['name']}"](rank, **task["arguments"])}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        dist.destroy_process_group()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    from epitaxy.graph.record import LabelField

    _FIELDS = {
        "energy": LabelField("energy", "eV"),
        "forces": LabelField("forces", "eV/Å", (3,), per_atom=True),
        "stress": LabelField("stress", "eV/Å^3", (3, 3)),
        "gap": LabelField("gap", "eV"),
        "modulus": LabelField("modulus", "GPa"),
    }
    main(int(sys.argv[1]))
