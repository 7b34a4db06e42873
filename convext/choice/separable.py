"""The records of kernels that compute a depthwise and a pointwise convolution in one, and the choice between them.

Where none takes a problem, the two are computed one after the other. To add a kernel is to add its name to `KERNELS`:
its module, a provider's as other kernels' are, has `why_not`, `slower` and `run`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convext.choice import registry
from convext.problem.separable import SeparableProblem

WhyNot = Callable[[SeparableProblem], "str | None"]
Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Kernel:
    """One way to compute both in one.

    Attributes:
        name: "provider.kernel", as of the other records.
        why_not: None where it takes a problem, else one sentence with the numbers in it.
        slower: None where it was measured to be worth it, else why "auto" leaves it alone, in such a sentence.
        run: `run(problem, x, w, bias, v, second_bias, residual)`; tensors of any strides, the last three but v or None.
    """

    name: str
    why_not: WhyNot
    slower: WhyNot
    run: Run

    @property
    def provider(self) -> str:
        return self.name.partition(".")[0]


def _lazy(name: str) -> Kernel:
    provider, _, kernel = name.partition(".")
    module = registry.HOMES[provider].format(kernel)

    def attribute(attr: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(importlib.import_module(module), attr)(*arguments)

    return Kernel(name, attribute("why_not"), attribute("slower"), attribute("run"))


# In order of preference: the first that takes a problem is the one that "auto" runs.
KERNELS = [_lazy("cpu.separable"), _lazy("triton.separable")]


def names() -> frozenset[str]:
    """Of all kernels."""
    return frozenset(kernel.name for kernel in KERNELS)


def refusal(kernel: Kernel, problem: SeparableProblem) -> str | None:
    """Why `kernel` does not take `problem`, in one sentence, or None where it does."""
    return registry.unavailable(kernel.provider, problem.depthwise) or kernel.why_not(problem)


def choose(problem: SeparableProblem, backend: str = "auto") -> Kernel | None:
    """The kernel that computes `problem` under `backend`, or None where one half follows the other.

    Under "auto" the first that takes it and was measured to be worth it, under a provider the first that takes it.

    Raises:
        ValueError: `backend` is the name of one that does not take it.
    """
    for kernel in KERNELS:
        if backend not in ("auto", kernel.provider, kernel.name):
            continue
        reason = refusal(kernel, problem)
        if reason is not None and backend == kernel.name:
            raise ValueError(f"backend {backend!r} does not take this problem\n  {problem}\n  {kernel.name}: {reason}")
        if reason is None and (backend != "auto" or kernel.slower(problem) is None):
            return kernel
    return None


def told(problem: SeparableProblem) -> str:
    """Each kernel's answer to `problem`, a line each."""
    answers = ((kernel.name, refusal(kernel, problem) or kernel.slower(problem)) for kernel in KERNELS)
    return "\n".join(f"  {name}: {reason or 'takes it'}" for name, reason in answers)
