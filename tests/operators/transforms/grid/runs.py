"""A case run from its operands to its numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Case
from nestings import contracted, nested
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Convolve = Callable[..., Tensor]
OPERANDS = ("input", "weight", "bias")


def run(case: Case, convolve: Convolve, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """The value of the case, and its gradients by the operands that require grad outside."""
    leaves = {role: t.detach().clone() for role, t in operands.items()}
    for role, t in leaves.items():
        t.requires_grad_(case.outside == "everything" or (case.outside == "others" and role != case.by))

    def value(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = dict(zip(OPERANDS, (input, weight, bias), strict=True))
        # A sine: derivatives of every order are there, and none is a constant.
        return nested(case.levels, lambda t: convolve(**{**given, case.by: t}).sin())(given[case.by])

    result = in_mode(case.mode, value)(*leaves.values())
    if case.outside != "nothing":
        contracted(result).backward()
    gradients = {f"gradient by {role}": t.grad for role, t in leaves.items() if t.requires_grad}
    return {"value": result.detach(), **gradients}


def in_mode(mode: str, function: Convolve) -> Convolve:
    if mode == "compile":
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, backend="aot_eager")
    if mode == "autocast":
        return lambda *operands: autocast(function, operands)
    if "checkpoint" in mode:
        return lambda *operands: checkpoint(function, *operands, use_reentrant=mode.startswith("reentrant"))
    return function


def autocast(function: Convolve, operands: tuple[Tensor, ...]) -> Tensor:
    with torch.autocast(operands[0].device.type, torch.float16):
        return function(*operands)
