"""Kernels that go wrong, each in its own way, beside one that is right: what a first run on a GPU has to survive.

CONVEXT_KERNELS=planted PYTHONPATH=tests/benchmarks python -m convext check --backend planted --patience 5
"""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor

import convext
from convext.choice.registry import Kernel
from convext.problem import FACES, ConvProblem
from convext.providers import aten


def _right(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return aten.run(problem, a, b, bias)


def _raises(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    raise RuntimeError("no such tile")


def _wrong(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    result = aten.run(problem, a, b, bias).clone()
    result[(-1,) * result.dim()] += result.abs().max()
    return result


def _hangs(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    while True:
        time.sleep(1)


def _greedy(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    everything = [torch.empty(1 << 30, dtype=torch.uint8, device=a.device) for _ in range(1 << 12)]
    return everything[0]


def _exits(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    os._exit(7)


KERNELS = {
    "raises": _raises, "wrong": _wrong, "hangs": _hangs, "greedy": _greedy, "exits": _exits, "right": _right,
}  # fmt: skip

for _name in os.environ.get("PLANTED", " ".join(KERNELS)).split():
    convext.register(Kernel(f"planted.{_name}", FACES, lambda problem: None, KERNELS[_name]))
