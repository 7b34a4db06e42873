"""A plugin with which every call that a kernel for CPUs takes is computed by it, whatever a table says:

    PYTHONPATH=tests/cpu python -m pytest -p pytest_prefer_cpu tests/operators tests/layers

Under "aten", where tests send calls through convext's operators, and under "auto", where a layer's call would be torch's own.
So what holds for torch's kernel under transforms, compilers and tools is asked of ours too.
"""

from __future__ import annotations

from convext import functional
from convext.choice import registry
from convext.choice.registry import ATEN, KERNELS, Kernel
from convext.problem import ConvProblem

_choose = registry.choose
_preference = registry._preference


def _ours_first(problem: ConvProblem) -> list[Kernel]:
    return [*(kernel for kernel in KERNELS if kernel.provider in ("cpu", "plain")), ATEN]


def _prefer(problem: ConvProblem, backend: str = "auto") -> Kernel:
    if problem.device == "cpu" and backend in ("aten", "auto"):
        return next(kernel for kernel in _ours_first(problem) if registry.refusal(kernel, problem) is None)
    return _choose(problem, backend)


registry.choose = _prefer
functional._FELT = 0


def pytest_report_header() -> str:
    return "convext: kernels for CPUs wherever they take a problem"
