"""How far a result of the emulated device may lie from float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convext.problem import ConvProblem, reference
from convext.providers import aten


def rounded(t: Tensor) -> Tensor:
    """The upper 19 bits of a float32, to nearest even: what cuDNN multiplies under TF32."""
    bits = t.contiguous().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32).view(t.shape)


def depth(p: ConvProblem) -> int:
    """How many products are summed for one result."""
    summed = {"fprop": p.taps * p.c, "dgrad": p.taps * p.k, "wgrad": p.n * math.prod(p.output) * p.groups}
    return summed[p.face] // p.groups


def bound(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, oracle: Tensor, products: str) -> float:
    """How far a result may lie from `oracle`: the rule of convext.commands.check, on a GPU whose torch is not here.

    Where `products` are "tf32", torch's operator would multiply rounded operands on tensor cores.

    The CPU's torch adds float32 in blocks, a GPU in order. A sum of n products of standard normal numbers then errs by
    u n / sqrt(6) on average: each addition by u / sqrt(3) of a partial sum, which grows as a square root. The largest
    of some hundred errs about three times as much; u is half a unit in the last place of 1.

    In float64 torch's result is the oracle itself: what counts is the bound of a sum of n products in any order, n
    units in the last place of the sum of magnitudes.
    """
    if problem.dtype is torch.float64:
        magnitudes = reference.compute(problem, a.abs(), b.abs(), None if bias is None else bias.abs())
        return depth(problem) * torch.finfo(torch.float64).eps * magnitudes.abs().max().item()
    if products == "tf32":
        a, b = rounded(a), rounded(b)
    torchs = (aten.run(problem, a, b, bias).double() - oracle).abs().max().item()
    eps = torch.finfo(problem.dtype).eps
    if problem.dtype is torch.float32:
        torchs = max(torchs, 3 * eps / 2 * depth(problem) / math.sqrt(6))
    return 2 * torchs + 2 * eps * oracle.abs().max().item()
