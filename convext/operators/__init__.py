"""The three faces as torch operators, and dgrad with wgrad as a fourth: one module for each thing that torch asks.


An epilogue is one more, `activated`; `separable` is two of those in a row, `branches` are parallel convolutions, and
`gated` a WaveNet's block: each with all of these in its one module.

`schema` says what they take, `forward` runs a kernel, `fake` knows shapes alone, `autograd` has the derivative rule;
`plain` is the question whether the dispatcher can be skipped. No kernel and no layer is here. FLOPs and placements of
DTensors are in `convext.tools`.
"""

from convext.operators import activated, autocast, autograd, branches, fake, forward, gated, separable, tracing, vmap
from convext.operators.autograd import convolve as convolve
from convext.operators.autograd import gradients as gradients
from convext.operators.plain import is_plain as _plain  # noqa: F401  what it was called before

__all__ = [
    "activated", "autocast", "autograd", "branches", "convolve", "fake", "forward", "gated", "gradients", "separable",
    "tracing", "vmap",
]  # fmt: skip
