"""The records of kernels that compute several convolutions in one, and the choice between them.

Where none takes a problem, the convolutions are computed one by one. To add a kernel is to add its name to the list of
its family: its module, a provider's as other kernels' are, has `why_not`, `slower` and `run`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from convext.choice import registry
from convext.problem import ConvProblem

Problem = TypeVar("Problem")
WhyNot = Callable[[Problem], "str | None"]


@dataclass(frozen=True)
class Kernel(Generic[Problem]):
    """One way to compute them in one.

    Attributes:
        name: "provider.kernel", as of the other records.
        why_not: None where it takes a problem, else one sentence with the numbers in it.
        slower: None where it was measured to be worth it, else why "auto" leaves it alone, in such a sentence.
        run: `run(problem, *operands)`; tensors of any strides, the operator's in its order.
    """

    name: str
    why_not: WhyNot[Problem]
    slower: WhyNot[Problem]
    run: Callable[..., Tensor]

    @property
    def provider(self) -> str:
        return self.name.partition(".")[0]


def _lazy(name: str) -> Kernel[Any]:
    provider, _, kernel = name.partition(".")
    module = registry.HOMES[provider].format(kernel)

    def attribute(attr: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(importlib.import_module(module), attr)(*arguments)

    return Kernel(name, attribute("why_not"), attribute("slower"), attribute("run"))


class Family(Generic[Problem]):
    """Kernels of one operator, in order of preference: the first that takes a problem is the one that "auto" runs."""

    def __init__(self, kernels: Sequence[str], of: Callable[[Problem], ConvProblem]) -> None:
        """`of` is one of a problem's convolutions, which tells the machine that all of them are computed on."""
        self.kernels: list[Kernel[Problem]] = [_lazy(name) for name in kernels]
        self.of = of

    def names(self) -> frozenset[str]:
        """Of all kernels."""
        return frozenset(kernel.name for kernel in self.kernels)

    def refusal(self, kernel: Kernel[Problem], problem: Problem) -> str | None:
        """Why `kernel` does not take `problem`, in one sentence, or None where it does."""
        return registry.unavailable(kernel.provider, self.of(problem)) or kernel.why_not(problem)

    def choose(self, problem: Problem, backend: str = "auto") -> Kernel[Problem] | None:
        """The kernel that computes `problem` under `backend`, or None where its convolutions are computed one by one.

        Under "auto" the first that takes it and was measured to be worth it, under a provider the first that takes it.

        Raises:
            ValueError: `backend` is the name of one that does not take it.
        """
        for kernel in self.kernels:
            if backend not in ("auto", kernel.provider, kernel.name):
                continue
            reason = self.refusal(kernel, problem)
            if reason is not None and backend == kernel.name:
                raise ValueError(
                    f"backend {backend!r} does not take this problem\n  {problem}\n  {kernel.name}: {reason}"
                )
            if reason is None and (backend != "auto" or kernel.slower(problem) is None):
                return kernel
        return None

    def told(self, problem: Problem) -> str:
        """Each kernel's answer to `problem`, a line each."""
        answers = ((kernel.name, self.refusal(kernel, problem) or kernel.slower(problem)) for kernel in self.kernels)
        return "\n".join(f"  {name}: {reason or 'takes it'}" for name, reason in answers)
