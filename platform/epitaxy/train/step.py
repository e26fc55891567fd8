"""One optimiser step whose gradient depends neither on the number of workers nor on micro-batches.

Every term of the loss is a (sum, count) pair. The counts of the whole step are known before the
first forward, so each micro-batch's backward is scaled by them at once; gradients add up locally
and are summed over the ranks exactly once. No DDP wrapper: empty shares, unused parameters and
second derivatives break it (pytorch/pytorch#47562). Terms that compare all crystals of a step
with each other go through ``coupled``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from epitaxy.errors import ConfigError, EpitaxyError, NonFiniteError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective, Term, Terms, Views
from epitaxy.train import collective
from epitaxy.train.balance import Balancer
from epitaxy.train.coupled import Shared, couplings, resolved, share
from epitaxy.train.ema import Ema
from epitaxy.train.metrics import Sums
from epitaxy.train.transfer import receive

LISTED_RECORDS = 32

T = TypeVar("T")


@dataclass(frozen=True)
class StepReport:
    """What one step did, equal on all ranks.

    Attributes:
        terms: Sum and count of each loss term over the whole step.
        weights: Weight of each term in the loss.
        grad_norm: Norm of the gradient before clipping.
        clipped: Whether it was scaled down.
        records: Records of the step over all ranks.
        skipped: What was not finite, if the step was left out for it; the weights are as before.
        factors: By which the weights of the loss's parts are balanced from now on.
    """

    terms: Sums
    weights: Mapping[str, float]
    grad_norm: float
    clipped: bool
    records: int
    skipped: str | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


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
        skip_non_finite: Whether a step whose loss or gradient is not finite is left out and
            reported, instead of ending the run.
        forward: Gives the context in which the loss terms are computed.
    """

    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    clip_norm: float | None = None
    ema: Ema | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    skip_non_finite: bool = False
    forward: Callable[[], AbstractContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.balancer = Balancer(self.model, self.objective)

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
        self.balancer.begin()
        buffers = self._buffers()
        self.optimizer.zero_grad(set_to_none=True)
        local = self._accumulate(micro_batches, counts)
        totals = collective.sum_numbers(
            {
                "records": sum(views[0].num_graphs for views in micro_batches),
                "failed": local.failure is not None or local.offence is not None,
                **{f"term {name}": total for name, total in local.sums.items()},
            }
        )
        records = int(totals["records"])
        if totals["failed"]:
            collective.raise_together(local.failure)
            return self._leave_out(where, collective.gather(local.offence), local, records, buffers)
        norm = self._reduce()
        if not math.isfinite(norm):
            offence = f"the gradient summed over all ranks has norm {norm}"
            return self._leave_out(where, [offence], local, records, buffers)
        clipped = self.clip_norm is not None and norm > self.clip_norm
        if clipped:
            total_norm = torch.tensor(norm, device=self.device)
            clip_grads_with_norm_(self.parameters, float(self.clip_norm or 0.0), total_norm)
        self.optimizer.step()
        self.balancer.end()
        if self.ema is not None:
            self.ema.update()
        terms = Sums({name: (totals[f"term {name}"], counts[name]) for name in counts})
        factors = dict(self.balancer.factors)
        return StepReport(terms, local.weights, norm, clipped, records, factors=factors)

    def _accumulate(self, micro_batches: Sequence[Views], counts: Mapping[str, float]) -> _Local:
        """Adds up gradients and sums of this rank."""
        sums: dict[str, Tensor] = {name: torch.zeros((), dtype=torch.float64) for name in counts}
        weights: dict[str, float] = {}
        checks: list[Tensor] = []
        failure: EpitaxyError | None = None
        try:
            for terms in self._terms(micro_batches, counts):
                loss = torch.zeros((), device=self.device)
                for name, term in self.balancer.weighed(terms, counts).items():
                    weights[name] = term.weight
                    loss = loss + term.weight * term.total / (_count(counts, name) or 1.0)
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

    def _terms(
        self, micro_batches: Sequence[Views], counts: Mapping[str, float]
    ) -> Iterator[dict[str, Term]]:
        """Yields the terms of each micro-batch, the coupled ones as sums over its own rows."""
        if not self.objective.couples_records:
            for views in micro_batches:
                yield resolved(self._computed(receive(views, self.device)), {}, 0)
            return
        moved = [receive(views, self.device) for views in micro_batches]
        if len(moved) == 1:
            failure, terms = _attempt(lambda: self._computed(moved[0]))
            shared = self._share(failure, [terms or {}], counts)
            yield resolved(terms or {}, shared, 0)
        else:
            random = _random_state(self.device)
            with torch.no_grad():
                failure, first = _attempt(lambda: [self._computed(views) for views in moved])
            shared = self._share(failure, first or [], counts)
            _restore_random(random, self.device)  # the same dropout once more
            for part, views in enumerate(moved):
                yield resolved(self._computed(views), shared, part)

    def _computed(self, views: Views) -> Terms:
        """Returns the terms of one micro-batch; only they are made in the ``forward`` context."""
        with self.forward():
            return self.objective.terms(self.model, views)

    def _share(
        self, failure: EpitaxyError | None, parts: Sequence[Terms], counts: Mapping[str, float]
    ) -> dict[str, Shared]:
        """Returns the coupled terms of the whole step, unless some rank could not make its rows."""
        collective.raise_together(failure)
        shared = share([couplings(terms) for terms in parts], gradients=True)
        for name, term in shared.items():
            if term.count != _count(counts, name):
                raise ConfigError(
                    f"the objective's terms() couples {term.count} crystals in {name!r}, its "
                    f"counts() says {_count(counts, name)}"
                )
        return shared

    def _reduce(self) -> float:
        """Adds up the gradients of all ranks; returns the norm of the sum."""
        for parameter in self.parameters:
            # A parameter that no rank used, or only some did, must look the same on all of them.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        collective.sum_tensors([p.grad for p in self.parameters if p.grad is not None])
        return float(_norm(self.parameters, self.device))

    def _buffers(self) -> dict[str, Tensor]:
        """Returns copies of what a forward changes (statistics of norms), if it may be undone."""
        if not self.skip_non_finite:
            return {}
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def _leave_out(
        self,
        where: str,
        offences: Sequence[str | None],
        local: _Local,
        records: int,
        buffers: Mapping[str, Tensor],
    ) -> StepReport:
        """Undoes a step that went wrong, or ends the run; the same on all ranks."""
        found = "; ".join(offence for offence in offences if offence is not None)
        if not self.skip_non_finite:
            raise NonFiniteError(
                f"{where}: {found}. The weights were not changed. Look at those records "
                "(filter.exclude leaves some out), lower optimizer.lr, or leave such steps out and "
                "count them with loop.non_finite=skip"
            )
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        self.optimizer.zero_grad(set_to_none=True)
        skipped, factors = f"{where}: {found}", dict(self.balancer.factors)
        return StepReport(Sums({}), local.weights, math.nan, False, records, skipped, factors)


def global_counts(objective: Objective, micro_batches: Sequence[Views]) -> dict[str, float]:
    """Returns each term's count over all ranks and micro-batches of a step."""
    counts: dict[str, float] = {}
    for views in micro_batches:
        for name, count in objective.counts(views).items():
            counts[name] = counts.get(name, 0) + count
    return collective.sum_numbers(counts)


def _attempt(action: Callable[[], T]) -> tuple[EpitaxyError | None, T | None]:
    """Returns the result of ``action``, or the error that the other ranks must hear of."""
    try:
        return None, action()
    except EpitaxyError as error:
        return error, None


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _restore_random(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _count(counts: Mapping[str, float], name: str) -> float:
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
