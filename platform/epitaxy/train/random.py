"""Randomness that depends on what is drawn for, never on who draws it or what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator(seed: int, epoch: int, structure_id: str, stream: str) -> np.random.Generator:
    """Returns a counter-based generator for one structure in one epoch.

    Equal arguments give equal draws on any rank, in any order, before or after a restart.

    Args:
        seed: Of the run.
        epoch: Of the run; fresh noise in every epoch.
        structure_id: Of the record.
        stream: What the numbers are for (``views``, ``validation``), so that uses are independent.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch, structure_id, stream)))


def seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seeds torch's own generators (dropout) for one step of one rank.

    Seeding every step leaves no hidden state behind, so a resumed run draws what the undisturbed
    one draws. Dropout masks do depend on how records are dealt to ranks.
    """
    torch.manual_seed(_key(seed, epoch, f"{step}/{rank}", "torch") % 2**63)


def _key(*parts: object) -> int:
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
