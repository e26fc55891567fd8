"""Packages whose classes may occur in pickles; they are stood in for, never imported."""

from __future__ import annotations

PACKAGES = (
    "ase",
    "bson",
    "chgnet",
    "emmet",
    "fairchem",
    "jarvis",
    "m3gnet",
    "matgl",
    "monty",
    "ocpmodels",
    "pathlib",
    "pymatgen",
    "torch_geometric",
    "torch_sparse",
)
