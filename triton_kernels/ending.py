"""What a launch is told of that which follows its sum: an activation, and a tensor that is added to the result."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from convext.problem import ConvProblem
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.passes.transpose import dense


class Ending(NamedTuple):
    """`epilogue(sum) + residual`, in the sum's precision, of a result that is stored after that.

    Attributes:
        epilogue: the activation.
        residual: lies as the result does, so that a kernel reads it where it writes; or None.
    """

    epilogue: Epilogue = Epilogue()
    residual: Tensor | None = None

    @property
    def activation(self) -> tuple[str, float, float]:
        """What a kernel is compiled for: the ACTIVATION of `activate`."""
        first, second = (*map(float, self.epilogue.scalars), 0.0, 0.0)[:2]
        return self.epilogue.name, first, second

    def lying(self, channels_last: bool) -> Ending:
        """The same beside a result in that memory format: a residual in the other one is copied."""
        return self if self.residual is None else self._replace(residual=dense(self.residual, channels_last))

    def applied(self, result: Tensor) -> Tensor:
        """The same by torch's operators, written over a result that no kernel of ours computed."""
        activated = self.epilogue.in_place(result)
        if activated is not result:  # torch has no such operator in place
            result.copy_(activated)
        return result if self.residual is None else result.add_(self.residual)


NOTHING = Ending()


def ending(problem: ConvProblem, epilogue: Epilogue, residual: Tensor | None) -> Ending:
    """Of `problem`'s result. A residual in another memory format is copied into that one."""
    return Ending(epilogue, residual).lying(problem.channels_last)
