"""One row of the benchmark: a face of a layer, or its training step, in one dtype on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from convext.benchmarks.cases.layers import Layer
from convext.choice import settings
from convext.problem import FACES, ConvProblem, Face, layout
from convext.problem.roofline import Peaks, bound, ideal_seconds

Work = Literal["fprop", "dgrad", "wgrad", "step"]
WORK: tuple[Work, ...] = (*FACES, "step")
LAYOUTS = ("nc", "cl")
Tensors = dict[str, Tensor]  # by role: "x", "w", "y"


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        layer: the layer.
        work: a face, or "step": forward, input gradient and weight gradient through the layer.
        dtype, device: of all tensors.
    """

    layer: Layer
    work: Work
    dtype: torch.dtype
    device: str

    @property
    def name(self) -> str:
        return f"{self.layer.id}.{self.work}"

    def problem(self, face: Face, layout_name: str = "nc") -> ConvProblem:
        """The problem of one face, with operands in "nc" or "cl" order."""
        arch, precision = 0, "ieee"
        if self.device == "cuda":
            major, minor = torch.cuda.get_device_capability()
            arch = 10 * major + minor
            precision = settings.fp32_precision() if self.dtype is torch.float32 else "ieee"
        return self.layer.problem(face, self.dtype, layout_name == "cl", self.device, arch, precision)

    @property
    def faces(self) -> tuple[Face, ...]:
        """The faces that the work consists of."""
        return FACES if self.work == "step" else (self.work,)

    @property
    def bytes(self) -> int:
        """Of x, w and y together."""
        return self.problem("fprop").ideal_bytes

    def draw(self, seed: int = 0) -> Tensors:
        """Standard normal x, w and y, the same numbers for every contender.

        A face's torch call also asks for the tensor that it leaves open, to read its shape, so all three are drawn.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        problem = self.problem("fprop")
        return {
            role: torch.randn(problem.shape(role), generator=generator, device=self.device, dtype=self.dtype)
            for role in "xwy"
        }

    def ideal_seconds(self, peaks: Peaks) -> float:
        """The sum over the faces of what each could take at best."""
        return sum(ideal_seconds(self.problem(face), peaks) for face in self.faces)

    def bound(self, peaks: Peaks) -> str:
        """What limits the face, or the step's forward: "memory", "fp32" or "tensor"."""
        return bound(self.problem(self.layer.forward if self.work == "step" else self.work), peaks)


def ordered(tensors: Tensors, layout_name: str) -> Tensors:
    """The same tensors, dense in "nc" or "cl" order."""
    return {role: layout.dense(t, layout_name == "cl") for role, t in tensors.items()}
