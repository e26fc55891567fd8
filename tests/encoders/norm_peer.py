"""One of several processes that normalise their shares of some rows together.

Usage: norm_peer.py RANK WORLD FOLDER. ``given.npz`` in the folder holds ``rows``, ``weights`` and
``scale``, and as ``share<deal><rank>`` the rows that each rank gets; ``rank<rank>.npz`` is what
this rank computed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from epitaxy.encoders.norms import make_norm


def main(rank: int, world: int, folder: Path) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", store, rank=rank, world_size=world)
    given = np.load(folder / "given.npz")
    norm = make_norm("sync_batch", given["rows"].shape[1]).double()
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(given["scale"]))
    answer = {}
    for deal in range(2):
        share = torch.from_numpy(given[f"share{deal}{rank}"])
        rows = torch.from_numpy(given["rows"])[share].requires_grad_()
        norm.zero_grad()
        result = norm(rows)
        (result.square() * torch.from_numpy(given["weights"])[share]).sum().backward()
        parameters = torch.cat([norm.weight.grad, norm.bias.grad])
        dist.all_reduce(parameters)  # what the training step does with every gradient
        state = {
            "result": result.detach(),
            "gradient": rows.grad,
            "parameters": parameters,
            "mean": norm.running_mean,
            "variance": norm.running_var,
            "updates": norm.num_batches_tracked,
        }
        answer |= {f"{name}{deal}": value.numpy().copy() for name, value in state.items()}
    np.savez(folder / f"rank{rank}.npz", **answer)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
