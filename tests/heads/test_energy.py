from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from epitaxy.encoders.cgcnn import CGCNN
from epitaxy.graph.collate import collate
from epitaxy.heads.energy import energy_head, network_energy
from epitaxy.heads.model import Model


def test_energies_add_up_over_atoms_whatever_crystal_vector_there_is(crystals: Any) -> None:
    torch.manual_seed(0)
    encoder: Any = CGCNN(8, 1, cutoff=3.5, crystal_width=6)
    head = energy_head(encoder, (4,), "silu", "late")
    model = Model(encoder, {"scalar": head}).double()
    records = [crystals.triclinic(1, 4), crystals.triclinic(2, 3)]
    batch = collate(records, [encoder.spec], (), torch.float64)
    atomic = head.out(functional.silu(head.hidden[0](encoder(batch).node)))
    expected = torch.stack([atomic[:4].sum(), atomic[4:].sum()])
    torch.testing.assert_close(network_energy(model, batch), expected)
