"""Keeps the parts of a loss in proportion by the gradients they send into the encoder.

Every few steps the norm ``g`` of the gradient of each part's loss, without the part's weight, with
respect to the encoder's parameters is measured over the whole step: all ranks and micro-batches.
A factor on the part's weight then follows it,

    ``f ← f^decay · (G / g)^(1 − decay)``, ``G`` the geometric mean of all ``g``,

so that in the long run ``f g`` is the same for all parts: each pulls at the encoder in proportion
to its weight, and a ramp of a weight does what it says. The product of the factors stays 1.

# Differs from Chen et al. 2018 (GradNorm), whose weights are parameters with a loss of their own
that also aims at equal rates of learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from epitaxy.errors import ConfigError
from epitaxy.heads.model import Model
from epitaxy.objectives.contract import Objective, Term
from epitaxy.train import collective


class Balancer:
    """Measures gradients while a step is made, and moves the factors when it is done.

    Without a rule (``objective.balance``) it leaves everything as it is.

    Args:
        model: Of the run, what is frozen marked as such.
        objective: Has the rule and the present weights of its parts.

    Raises:
        ConfigError: If there is a rule, but the encoder does not learn.
    """

    def __init__(self, model: Model, objective: Objective) -> None:
        self._objective, self._rule = objective, objective.balance
        names = objective.part_weights if self._rule else ()
        self.factors: dict[str, float] = dict.fromkeys(names, 1.0)
        encoder = cast(nn.Module, model.encoder)
        self._parameters = [p for p in encoder.parameters() if p.requires_grad]
        if self._rule and not self._parameters:
            raise ConfigError(
                "objective.balance compares the gradients of the encoder, all of which is frozen; "
                "set objective.balance=null"
            )
        self._steps = 0
        self._gradients: dict[str, list[Tensor]] = {}

    def resume(self, steps: int, factors: Mapping[str, float]) -> None:
        """Goes on after so many steps of the run, with the factors it had then."""
        self._steps = steps
        self.factors |= {name: value for name, value in factors.items() if name in self.factors}

    def begin(self) -> None:
        """Starts a step; decides whether it is measured."""
        due = self._rule is not None and self._steps % self._rule.every == 0
        self._steps += 1
        self._gradients = {
            name: [torch.zeros_like(parameter) for parameter in self._parameters]
            for name in (self.factors if due else ())
        }

    def weighed(self, terms: Mapping[str, Term], counts: Mapping[str, float]) -> dict[str, Term]:
        """Returns the terms of a micro-batch with their factors, having measured them if due.

        Args:
            terms: Their graph is kept.
            counts: Of the whole step.
        """
        if self._gradients:
            self._measure(terms, counts)
        return {
            name: replace(term, weight=term.weight * self.factors[part_of(name)])
            if self.factors
            else term
            for name, term in terms.items()
        }

    def end(self) -> None:
        """Moves the factors after a measured step; every rank must call it."""
        if not self._gradients or self._rule is None:
            return
        collective.sum_tensors([g for gradients in self._gradients.values() for g in gradients])
        norms = {name: float(get_total_norm(g)) for name, g in self._gradients.items()}
        self._gradients = {}
        # A part without weight or labels in this step says nothing, and leaves the others alone.
        norms = {name: norm for name, norm in norms.items() if 0 < norm < math.inf}
        if not norms:
            return
        mean = sum(math.log(norm) for norm in norms.values()) / len(norms)
        reach = math.log(self._rule.limit)
        for name, norm in norms.items():
            wanted = mean - math.log(norm)
            kept = self._rule.decay * math.log(self.factors[name])
            moved = kept + (1 - self._rule.decay) * wanted
            self.factors[name] = math.exp(min(max(moved, -reach), reach))

    def _measure(self, terms: Mapping[str, Term], counts: Mapping[str, float]) -> None:
        """Adds the gradients of this micro-batch to those of the step."""
        losses: dict[str, Tensor] = {}
        for name, term in terms.items():
            part = part_of(name)
            weight = term.weight / self._objective.part_weights[part]
            loss = weight * term.total / (counts.get(name) or 1.0)
            losses[part] = losses[part] + loss if part in losses else loss
        for part, loss in losses.items():
            if not loss.requires_grad:
                continue
            gradients = torch.autograd.grad(
                loss, self._parameters, retain_graph=True, materialize_grads=True
            )
            for total, gradient in zip(self._gradients[part], gradients, strict=True):
                total += gradient


def part_of(term: str) -> str:
    """Returns the part of the loss that a term belongs to, by its name."""
    return term.partition(".")[0]
