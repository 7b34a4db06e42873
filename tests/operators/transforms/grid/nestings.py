"""torch.func's transforms as functions of functions of one tensor, so that any of them nests in any other.

A level takes `f`, which maps a tensor to a tensor of any shape, and returns another such function of the same tensor.
Where a transform wants few outputs, the level contracts those of `f` first, with weights that are all different: no
derivative can hide behind another one's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, func

Function = Callable[[Tensor], Tensor]


def contracted(t: Tensor) -> Tensor:
    """One number that depends on every element of `t`, on each with another weight."""
    weights = torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype, device=t.device)
    return (t.reshape(-1) * weights).sum()


def direction(t: Tensor) -> Tensor:
    """A tangent for `t`: no element is zero, and no two are alike."""
    return torch.linspace(-1, 2, t.numel() + 1, dtype=t.dtype, device=t.device)[1:].reshape(t.shape)


def two(f: Function) -> Function:
    """Two numbers of `f`, so that its Jacobian has two rows."""

    def both(t: Tensor) -> Tensor:
        y = f(t)
        return torch.stack([contracted(y), y.sum()])

    return both


def grad(f: Function) -> Function:
    return func.grad(lambda t: contracted(f(t)))


def vjp(f: Function) -> Function:
    """The pullback called once, after `vjp` has returned."""

    def level(t: Tensor) -> Tensor:
        y, pullback = func.vjp(f, t)
        return pullback(direction(y))[0]

    return level


def mapped_vjp(f: Function) -> Function:
    """The pullback called inside another transform, which began after `vjp` had returned."""

    def level(t: Tensor) -> Tensor:
        y, pullback = func.vjp(f, t)
        return func.vmap(pullback)(torch.stack([direction(y), torch.ones_like(y)]))[0]

    return level


def jvp(f: Function) -> Function:
    return lambda t: func.jvp(f, (t,), (direction(t),))[1]


def linearize(f: Function) -> Function:
    def level(t: Tensor) -> Tensor:
        _, push = func.linearize(f, t)
        return push(direction(t))

    return level


def jacrev(f: Function) -> Function:
    return func.jacrev(two(f))


def jacfwd(f: Function) -> Function:
    return func.jacfwd(two(f))


def hessian(f: Function) -> Function:
    return func.hessian(lambda t: contracted(f(t)))


def vmap(f: Function) -> Function:
    return lambda t: func.vmap(f)(torch.stack([t, t * 0.5]))


class Holder(torch.nn.Module):
    """A function of a parameter, which functional_call puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.t = torch.nn.Parameter(torch.zeros(()))

    def forward(self, f: Function) -> Tensor:
        return f(self.t)


HOLDER = Holder()  # one for all: the compiler makes no parameters


def functional_call(f: Function) -> Function:
    return lambda t: func.functional_call(HOLDER, {"t": t}, (f,))


LEVELS: dict[str, Callable[[Function], Function]] = {
    level.__name__: level
    for level in (grad, vjp, mapped_vjp, jvp, linearize, jacrev, jacfwd, hessian, vmap, functional_call)
}
REVERSE_MODE = {"grad", "vjp", "mapped_vjp", "jacrev", "hessian"}
FORWARD_MODE = {"jvp", "linearize", "jacfwd", "hessian"}


def nested(levels: tuple[str, ...], f: Function) -> Function:
    """`f` under `levels`, the innermost first."""
    for level in levels:
        f = LEVELS[level](f)
    return f
