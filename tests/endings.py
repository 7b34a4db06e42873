"""What follows a convolution: each activation as torch has it, and the tolerance rule for a kernel that stores both."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.commands import check
from convext.problem import ConvProblem, layout, reference
from convext.problem.epilogue import Epilogue
from convext.providers import aten

TORCHS: dict[Epilogue, Callable[[Tensor], Tensor]] = {
    Epilogue(): lambda z: z,
    Epilogue("silu"): F.silu,
    Epilogue("gelu"): F.gelu,
    Epilogue("relu"): F.relu,
    Epilogue("leaky_relu", (0.3,)): lambda z: F.leaky_relu(z, 0.3),
    Epilogue("leaky_relu", (-0.3,)): lambda z: F.leaky_relu(z, -0.3),
    Epilogue("clamp", (-0.5, 0.7)): lambda z: z.clamp(-0.5, 0.7),
    Epilogue("clamp", (0.0, float("inf"))): lambda z: z.clamp(min=0),
    Epilogue("hardswish"): F.hardswish,
    Epilogue("hardsigmoid"): F.hardsigmoid,
    Epilogue("gelu_tanh"): lambda z: F.gelu(z, approximate="tanh"),
    Epilogue("sigmoid"): torch.sigmoid,
    Epilogue("tanh"): torch.tanh,
}

# Residuals that do not lie as the result does.
STRIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "the other format": lambda r: layout.dense(r, not layout.is_channels_last(r)),
    "a slice": lambda r: torch.cat([r, r], 2)[:, :, : r.shape[2]],
    "expanded": lambda r: r[:1, :, :1].expand(r.shape),
}


def residual_of(problem: ConvProblem) -> Tensor:
    """That lies as the result does."""
    drawn = torch.randn(problem.open_shape, device=problem.device).to(problem.dtype)
    return layout.dense(drawn, problem.channels_last)


def assert_follows(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None,
    found: Tensor,
) -> None:  # fmt: skip
    """The tolerance rule, where torch's own are a convolution, an activation and a sum, each rounded.

    In TF32 it is that of operands rounded to it (convext.commands.check).
    """
    check.assert_described(problem, found)

    def finished(z: Tensor) -> Tensor:
        y = TORCHS[epilogue](z)
        return y if residual is None else y + residual.to(y.dtype)

    oracle, torchs = finished(reference.compute(problem, a, b, bias)), finished(aten.run(problem, a, b, bias))
    error, theirs = ((t.double() - oracle).abs().max().item() for t in (found, torchs))
    if problem.precision == "tf32":
        rounded = finished(reference.compute(problem, check.nearest_tf32(a), check.nearest_tf32(b), bias))
        theirs = max(theirs, (rounded - oracle).abs().max().item())
    eps = torch.finfo(problem.dtype).eps
    floor = 2 * eps * oracle.abs().max().item()
    if problem.dtype is torch.float64:  # the oracle is torch's own
        floor = 1e-13
    assert error <= 2 * theirs + floor, (
        f"{epilogue}, residual {residual is not None}: {error:.3g}, torch's {theirs:.3g}"
    )


def assert_added_last(found: Tensor, sums: Tensor, bias: Tensor) -> None:
    """`found` is `sums`, in float64, plus a large bias, rounded once.

    Sums that begin with the bias round each term to the last place of it, and are off by several units of that.
    """
    exact = sums + bias.double().view(-1, *[1] * (sums.dim() - 2))
    eps = torch.finfo(found.dtype).eps
    assert ((found - exact).abs() <= 0.6 * eps * exact.abs() + 30 * eps * sums.abs().max()).all()
