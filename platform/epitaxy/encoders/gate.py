"""The gated message of CGCNN with hand-written first and second derivatives.

Training on forces differentiates twice. Left to autograd, that turns the few elementwise
operations of a message into about a hundred passes over arrays of (edges, width), and they are
most of a step's time. Written out, they are about thirty.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

CoreName = Literal["silu", "softplus"]
CORES = ("silu", "softplus")

Gates = Float[Tensor, "edges gates"]
Messages = Float[Tensor, "edges width"]
Weights = Float[Tensor, "edges 1"]


def gated_message(gates: Gates, weight: Weights, core: CoreName) -> Messages:
    """Returns ``w σ(f) g(s)`` for ``gates`` = f ⊕ s; differentiable twice, not three times.

    Args:
        gates: Filter and core of each edge side by side, (edges, 2 · width).
        weight: Factor of each edge.
        core: ``g``, ``silu`` or ``softplus``.
    """
    message: Messages = _Message.apply(gates, weight, core)
    return message


class _Message(Function):
    """``m = w a g`` with ``a = σ(f)``, ``g = g(s)``."""

    @staticmethod
    def forward(gates: Gates, weight: Weights, core: CoreName) -> Messages:
        f, s = gates.chunk(2, dim=-1)
        value = functional.silu(s) if core == "silu" else functional.softplus(s)
        return torch.sigmoid(f).mul_(value).mul_(weight)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Messages) -> None:
        gates, weight, context.core = inputs
        context.save_for_backward(gates, weight)

    @staticmethod
    def backward(context: Any, *gradients: Messages) -> tuple[Tensor, Tensor, None]:
        gates, weight = context.saved_tensors
        by_gates, by_weight = _Gradient.apply(gradients[0], gates, weight, context.core)
        return by_gates, by_weight, None


class _Gradient(Function):
    """``∂/∂f = G w a' g``, ``∂/∂s = G w a g'``, ``∂/∂w = Σ G a g`` for the gradient ``G`` of m."""

    @staticmethod
    def forward(
        gradient: Messages, gates: Gates, weight: Weights, core: CoreName
    ) -> tuple[Gates, Weights]:
        a, a1, g, g1, _ = _values(gates, core)
        weighted = gradient * weight
        by_gates = torch.empty_like(gates)
        by_f, by_s = by_gates.chunk(2, dim=-1)
        torch.mul(weighted, a1, out=by_f).mul_(g)
        torch.mul(weighted, a, out=by_s).mul_(g1)
        return by_gates, (g.mul_(a).mul_(gradient)).sum(-1, keepdim=True)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        gradient, gates, weight, context.core = inputs
        context.save_for_backward(gradient, gates, weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With the gradients ``u, v`` of the two halves and ``t`` of the weight's derivative.

        ``P = u a' g + v a g'``;  ∂/∂G = w P + t a g;  ∂/∂w = Σ G P;
        ∂/∂f = G (w (u a'' g + v a' g') + t a' g);  ∂/∂s = G (w (u a' g' + v a g'') + t a g').
        """
        gradient, gates, weight = context.saved_tensors
        u, v = gradients[0].chunk(2, dim=-1)
        t = gradients[1]
        a, a1, g, g1, g2 = _values(gates, context.core)
        by_gates = torch.empty_like(gates)
        by_f, by_s = by_gates.chunk(2, dim=-1)
        ua1, va = u * a1, v * a
        torch.mul(v, a1, out=by_f).mul_(g1)
        a2_over_a1 = a.mul(-2.0).add_(1.0)
        by_f.addcmul_(a2_over_a1.mul_(ua1), g).mul_(weight)
        by_f.addcmul_(a1.mul_(g), t).mul_(gradient)
        torch.mul(ua1, g1, out=by_s).addcmul_(va, g2).mul_(weight)
        by_s.addcmul_(a * g1, t).mul_(gradient)
        p = ua1.mul_(g).addcmul_(va, g1)
        by_weight = (gradient * p).sum(-1, keepdim=True)
        by_gradient = p.mul_(weight).addcmul_(a.mul_(g), t)
        return by_gradient, by_gates, by_weight, None


def _values(gates: Gates, core: CoreName) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns ``a, a', g, g', g''`` as new tensors."""
    f, s = gates.chunk(2, dim=-1)
    a, b = torch.sigmoid(f), torch.sigmoid(s)
    a1, b1 = torch.addcmul(a, a, a, value=-1), torch.addcmul(b, b, b, value=-1)
    if core == "softplus":
        return a, a1, functional.softplus(s), b, b1
    # g = s b,  g' = b + s b',  g'' = b' (2 + s (1 − 2b))
    g = s * b
    g1 = torch.addcmul(b, s, b1)
    g2 = torch.addcmul(s, g, s.new_full((), -2.0)).add_(2.0).mul_(b1)
    return a, a1, g, g1, g2
