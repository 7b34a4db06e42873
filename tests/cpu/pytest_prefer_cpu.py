"""A plugin with which every call that a kernel for CPUs takes is computed by it, whatever a table says:

    PYTHONPATH=tests/cpu python -m pytest -p pytest_prefer_cpu tests/operators tests/layers

Under "aten", by which tests send calls through convext's operators, and under "auto", where a call would be torch's.
What holds for torch's kernel under transforms, compilers and tools is asked of ours too.
"""

from __future__ import annotations

import pytest

from convext.choice import registry
from convext.choice.registry import ATEN, KERNELS, Kernel
from convext.functional import whose
from convext.problem import ConvProblem

_choose = registry.choose
_preference = registry._preference


def _ours_first(problem: ConvProblem) -> list[Kernel]:
    return [*(kernel for kernel in KERNELS if kernel.provider == "cpu"), ATEN]


def _prefer(problem: ConvProblem, backend: str = "auto") -> Kernel:
    if problem.device == "cpu" and backend in ("aten", "auto"):
        return next(kernel for kernel in _ours_first(problem) if registry.refusal(kernel, problem) is None)
    return _choose(problem, backend)


registry.choose = _prefer
whose._SMALLEST = 0
whose.FORWARD = whose.BACKWARD = 0.0


def pytest_report_header() -> str:
    return "convext: kernels for CPUs wherever they take a problem"


# What says that a call is torch's; and one sample with a single output, of 64 products, which torch happens to get
# right to half a unit in the last place: no bound for others.
_NOT_ASKED = (
    "tests/layers/test_host_work.py", "test_aten_by_name_is_torchs_operator",
    "test_samples_agree_with_torch[conv3d-float32-",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if any(name in item.nodeid for name in _NOT_ASKED)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
