"""One optimiser step whose gradient depends neither on the number of workers nor on micro-batches.

Every term of the loss is a (sum, count) pair. The counts of the whole step are known before the
first forward, so each micro-batch's backward is scaled by them at once; gradients add up locally
and are summed over the ranks exactly once. No DDP wrapper: empty shares, unused parameters and
second derivatives break it (pytorch/pytorch#47562).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from epitaxy.errors import ConfigError, EpitaxyError, NonFiniteError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective
from epitaxy.train import collective
from epitaxy.train.ema import Ema
from epitaxy.train.metrics import Sums
from epitaxy.train.transfer import Views, receive

LISTED_RECORDS = 32


@dataclass(frozen=True)
class StepReport:
    """What one step did, equal on all ranks.

    Attributes:
        terms: Sum and count of each loss term over the whole step.
        weights: Weight of each term in the loss.
        grad_norm: Norm of the gradient before clipping.
        clipped: Whether it was scaled down.
        records: Records of the step over all ranks.
    """

    terms: Sums
    weights: Mapping[str, float]
    grad_norm: float
    clipped: bool
    records: int


@dataclass(frozen=True)
class _Local:
    """What one rank found: sums and weights by term, and what went wrong."""

    sums: Mapping[str, float]
    weights: Mapping[str, float]
    offence: str | None
    failure: EpitaxyError | None


@dataclass
class Stepper:
    """Moves a model by one step at a time.

    Attributes:
        model: The model; its trainable parameters must be those of ``optimizer``.
        objective: Gives counts and terms.
        optimizer: Any torch optimiser.
        clip_norm: Largest gradient norm, or ``None``.
        ema: Average to update after each step.
        device: Where the model lives.
    """

    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    clip_norm: float | None = None
    ema: Ema | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def __call__(self, micro_batches: Sequence[Views], where: str) -> StepReport:
        """Trains on this rank's share of one step; every rank must call it.

        Args:
            micro_batches: Batches of this rank on the CPU, sent ahead to the device or not; the
                same number on every rank, and any of them may be empty.
            where: Names the step in errors, e.g. ``epoch 3, step 12``.

        Raises:
            NonFiniteError: On every rank, before the optimiser moves, if a loss or a gradient is
                not finite on any rank.
        """
        counts = global_counts(self.objective, micro_batches)
        self.optimizer.zero_grad(set_to_none=True)
        local = self._accumulate(micro_batches, counts)
        totals = collective.sum_numbers(
            {
                "records": sum(views[0].num_graphs for views in micro_batches),
                "failed": local.failure is not None or local.offence is not None,
                **{f"term {name}": total for name, total in local.sums.items()},
            }
        )
        if totals["failed"]:
            collective.raise_together(local.failure)
            _refuse(where, collective.gather(local.offence))
        norm = self._reduce(where)
        clipped = self.clip_norm is not None and norm > self.clip_norm
        if clipped:
            total_norm = torch.tensor(norm, device=self.device)
            clip_grads_with_norm_(self.parameters, float(self.clip_norm or 0.0), total_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        terms = Sums({name: (totals[f"term {name}"], counts[name]) for name in counts})
        return StepReport(terms, local.weights, norm, clipped, int(totals["records"]))

    def _accumulate(self, micro_batches: Sequence[Views], counts: Mapping[str, int]) -> _Local:
        """Adds up gradients and sums of this rank."""
        sums: dict[str, Tensor] = {name: torch.zeros((), dtype=torch.float64) for name in counts}
        weights: dict[str, float] = {}
        checks: list[Tensor] = []
        failure: EpitaxyError | None = None
        try:
            for views in micro_batches:
                moved = receive(views, self.device)
                loss = torch.zeros((), device=self.device)
                for name, term in self.objective.terms(self.model, moved).items():
                    weights[name] = term.weight
                    loss = loss + term.weight * term.total / max(_count(counts, name), 1)
                    sums[name] = sums[name].to(self.device) + term.total.detach().double()
                if loss.requires_grad:
                    loss.backward()
                checks += [loss.detach().double(), _norm(self.parameters, self.device)]
        except EpitaxyError as error:  # the other ranks must hear of it
            failure = error
        tensors = [*checks, *(total.to(self.device) for total in sums.values())]
        numbers = torch.stack(tensors).tolist()  # the only wait for the device
        return _Local(
            dict(zip(sums, numbers[len(checks) :], strict=True)),
            weights,
            None if failure else _offence(micro_batches, numbers[: len(checks)]),
            failure,
        )

    def _reduce(self, where: str) -> float:
        for parameter in self.parameters:
            # A parameter that no rank used, or only some did, must look the same on all of them.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        collective.sum_tensors([p.grad for p in self.parameters if p.grad is not None])
        norm = float(_norm(self.parameters, self.device))
        if not math.isfinite(norm):
            _refuse(where, [f"the gradient summed over all ranks has norm {norm}"])
        return norm


def global_counts(objective: Objective, micro_batches: Sequence[Views]) -> dict[str, int]:
    """Returns each term's count over all ranks and micro-batches of a step."""
    counts: dict[str, int] = {}
    for views in micro_batches:
        for name, count in objective.counts(views).items():
            counts[name] = counts.get(name, 0) + count
    return {name: int(total) for name, total in collective.sum_numbers(counts).items()}


def _count(counts: Mapping[str, int], name: str) -> int:
    if name not in counts:
        raise ConfigError(f"the objective's terms() gives {name!r}, its counts() {sorted(counts)}")
    return counts[name]


def _norm(parameters: Sequence[nn.Parameter], device: torch.device) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=device)
    return get_total_norm(gradients).double()


def _offence(micro_batches: Sequence[Views], checks: Sequence[float]) -> str | None:
    """Returns what the first micro-batch that went wrong did, naming its records."""
    for index, views in enumerate(micro_batches):
        loss, norm = checks[2 * index], checks[2 * index + 1]
        if math.isfinite(loss) and math.isfinite(norm):
            continue
        what = f"the gradient norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        ids = [str(record_id) for record_id in views[0].ids]
        more = f" and {len(ids) - LISTED_RECORDS} more" if len(ids) > LISTED_RECORDS else ""
        return (
            f"{what} on rank {collective.rank()}, micro-batch {index}, "
            f"records {', '.join(ids[:LISTED_RECORDS])}{more}"
        )
    return None


def _refuse(where: str, offences: Sequence[str | None]) -> None:
    found = "; ".join(offence for offence in offences if offence is not None)
    raise NonFiniteError(
        f"{where}: {found}. The weights were not changed. Look at those records (filter.exclude "
        "leaves some out), or lower optimizer.lr"
    )
