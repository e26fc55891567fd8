"""Crystals and helpers that the tests of several encoders share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from epitaxy.build import build
from epitaxy.encoders.contract import Encoding
from epitaxy.graph.collate import collate
from epitaxy.graph.record import CrystalRecord

CONF = Path(__file__).parents[2] / "platform/epitaxy/conf/encoder"


@pytest.fixture(scope="session")
def preset() -> Callable[..., Any]:
    """``preset(name, **changes)``: the encoder of a configuration, random but reproducible."""

    def made(name: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        config = yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))
        return build({**config, **changes})

    return made


@pytest.fixture(scope="session")
def encoded() -> Callable[..., Encoding]:
    """``encoded(encoder, records…)``: what it computes for them, in fp64 and eval mode."""

    def run(encoder: Any, *records: CrystalRecord) -> Encoding:
        with torch.no_grad():
            encoder = encoder.double().eval()
            return encoder(collate(records, [encoder.spec], (), torch.float64))

    return run


@pytest.fixture(scope="session")
def parameters() -> Callable[..., int]:
    """Number of trainable parameters of some modules together."""

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    return count


@pytest.fixture(scope="session")
def repeated() -> Callable[[CrystalRecord, Sequence[int]], CrystalRecord]:
    """A crystal in a cell that is several times larger along each axis."""

    def larger(record: CrystalRecord, times: Sequence[int]) -> CrystalRecord:
        steps = np.stack(np.meshgrid(*map(range, times), indexing="ij"), -1).reshape(-1, 3)
        positions = (record.positions[None] + (steps @ record.cell)[:, None]).reshape(-1, 3)
        cell = record.cell * np.array(times)[:, None]
        return CrystalRecord("larger", np.tile(record.numbers, len(steps)), positions, cell)

    return larger
