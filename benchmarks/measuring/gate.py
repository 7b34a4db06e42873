"""The gate: nothing is timed before its result agreed with float64, by the rule of `convext.commands.check`.

The oracle is ATen in float64. A weight gradient sums over the whole batch, so it is checked as a whole. The images of
the other two faces do not meet, so of a large batch the first and the last are checked: an offset that overflows shows
in the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from convext.benchmarks.cases.case import Case, Tensors
from convext.commands.check import Agreement, Exact, agreement, torch_error
from convext.problem import OPERANDS, ConvProblem, Face
from convext.problem.layout import dense
from convext.providers import aten

IMAGES = 2
CHUNK_BYTES = 2**30  # of float64 operands at a time, for the weight gradient


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """Within this context, cuDNN does (not) try out its algorithms at the first call with new sizes."""
    before = torch._C._get_cudnn_benchmark()
    torch._C._set_cudnn_benchmark(on)  # torch.backends.cudnn.flags would reset the flags beside it
    try:
        yield
    finally:
        torch._C._set_cudnn_benchmark(before)


@dataclass
class Gate:
    """Checks the results of one case's contenders against one oracle, which is computed at the first of them.

    So is torch's own error in each layout: a weight gradient of the whole batch takes torch as long as a contender.

    Attributes:
        case: what they compute.
        tensors: x, w and y that they were given, by layout.
        bias: of a step's layer, or None.
    """

    case: Case
    tensors: dict[str, Tensors]
    bias: Tensor | None = None
    _exact: dict[Face, Exact] = field(default_factory=dict)
    _torch_errors: dict[tuple[Face, str], float] = field(default_factory=dict)

    @property
    def images(self) -> tuple[int, ...]:
        """Which images of the batch are checked."""
        n = self.case.layer.input[0]
        return tuple(range(n)) if n <= IMAGES else (0, n - 1)

    @property
    def checked(self) -> str:
        """What is checked, in words."""
        n = self.case.layer.input[0]
        if self.case.work == "wgrad" or n <= IMAGES:
            return "all"
        return f"images 0 and {n - 1} of {n}" + ("; all of w" if self.case.work == "step" else "")

    def refusal(self, layout_name: str, results: Sequence[Tensor]) -> str | None:
        """None where every result agrees; else how the first one that does not disagrees.

        Args:
            layout_name: "nc" or "cl": torch's own error, which sets the tolerance, is that of its kernels there.
            results: one tensor for each of the case's faces, in their order.
        """
        with cudnn_benchmark(False):  # trying out algorithms for the oracle would take longer than all the rest
            for face, result in zip(self.case.faces, results, strict=True):
                try:
                    measured = self._agreement(face, layout_name, result)
                except AssertionError as error:
                    return f"{face}: {error}"
                if not measured.ok:
                    return f"{face}: {measured}"
        return None

    def _agreement(self, face: Face, layout_name: str, result: Tensor) -> Agreement:
        whole = self.case.problem(face, layout_name)
        assert result.shape == whole.open_shape, f"shape {tuple(result.shape)}, expected {whole.open_shape}"
        first, second = OPERANDS[face]
        a, b = (self.tensors[layout_name][role] for role in (first, second))
        bias = self.bias if face == self.case.layer.forward else None
        if face == "wgrad":
            problem = whole
        else:
            index = torch.tensor(self.images, device=a.device)
            problem = replace(whole, n=len(self.images))
            a = dense(a.index_select(0, index), whole.channels_last)
            result = result.index_select(0, index)
        result = dense(result, problem.channels_last)  # the order of torch's own results is torch's business
        if face not in self._exact:
            compute = _weight_oracle if face == "wgrad" else _oracle
            self._exact[face] = Exact.of(problem, a, b, bias, compute)
        exact, at = self._exact[face], (face, layout_name)
        if at not in self._torch_errors:
            self._torch_errors[at] = torch_error(problem, a, b, bias, exact)
        return agreement(problem, a, b, bias, result, exact, self._torch_errors[at])


def _oracle(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    exact = replace(problem, dtype=torch.float64)
    return aten.run(exact, a.double(), b.double(), None if bias is None else bias.double())


def _weight_oracle(problem: ConvProblem, x: Tensor, y: Tensor, _: Tensor | None) -> Tensor:
    """The sum over the batch, a part of it at a time: float64 operands are up to four times as large."""
    per_image = max(1, problem.ideal_bytes // problem.n * 8 // problem.dtype.itemsize)
    step = max(1, CHUNK_BYTES // per_image)
    total = x.new_zeros(problem.w_shape, dtype=torch.float64)
    for i in range(0, problem.n, step):
        part, grad = x[i : i + step], y[i : i + step]
        total += _oracle(replace(problem, n=part.shape[0]), part, grad)
    return total
