"""The arithmetic of a run: precision, threads, determinism; afterwards all is as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from epitaxy.errors import ConfigError
from epitaxy.objectives.contract import Objective
from epitaxy.train.settings import RunSettings

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "tf32": torch.float32,
    "bf16": torch.float32,
}
"""Of weights, gradients, positions and labels; tf32 and bf16 are ways to compute with fp32."""

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_WORKSPACE = ":4096:8"
"""With it cuBLAS gives the same bits every time (its manual, section on reproducibility)."""


def check_precision(precision: str, objective: Objective) -> None:
    """Refuses bfloat16 where the energy is differentiated.

    With 7 bits of mantissa it does not tell the energies of neighbouring frames apart, and forces
    are such differences.

    Raises:
        ConfigError: If the objective asks for forces or stress.
    """
    if precision == "bf16" and "position_grad" in objective.requires:
        raise ConfigError(
            f"loop.precision=bf16 does not suit objective {type(objective).__name__}, which "
            "differentiates the energy with respect to positions: set loop.precision=tf32 or fp32"
        )


def forward_context(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Returns the context in which a training step computes its loss terms.

    With ``bf16``, torch's autocast: matrix products in bfloat16, sums of losses in fp32. Weights
    and their gradients are fp32 throughout, and the backward pass stays outside, as torch asks.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def numerics(settings: RunSettings) -> Iterator[None]:
    """Sets up the arithmetic of a run for the time of a ``with`` block."""
    compute = settings.compute
    with ExitStack() as stack:
        stack.enter_context(_threads(compute.threads))
        stack.enter_context(_matrix_products(settings.loop.precision))
        if compute.deterministic:
            stack.enter_context(_deterministic())
        yield


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Sets the number of threads (0: as it is) and the treatment of denormal numbers."""
    before, flushed = torch.get_num_threads(), _flushes_denormals()
    # Nearly dead activations produce denormal numbers, on which CPUs are many times slower.
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


def _flushes_denormals() -> bool:
    """Returns whether this thread takes denormal numbers for zero; torch only has the setter."""
    return float(torch.full((), 2.0**-1040, dtype=torch.float64) * 1.0) == 0.0


@contextmanager
def _matrix_products(precision: str) -> Iterator[None]:
    """Lets GPUs multiply fp32 matrices as tf32, or not, whatever the process was set to before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Refuses every operation whose bits depend on the order in which threads finish."""
    cudnn = torch.backends.cudnn
    workspace = os.environ.get(_CUBLAS)
    enabled = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    chosen = cudnn.deterministic, cudnn.benchmark
    os.environ[_CUBLAS] = _CUBLAS_WORKSPACE  # read when a process first multiplies on the GPU
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = chosen
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        if workspace is None:
            del os.environ[_CUBLAS]
        else:
            os.environ[_CUBLAS] = workspace
