"""`with convext.everywhere():` code that calls torch's convolutions itself gets convext's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from convext import functional
from convext.operators import convolve, gradients
from convext.operators.schema import BOTH, OPS

# torch.nn.functional's are the same objects.
FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: functional.conv1d,
    torch.conv2d: functional.conv2d,
    torch.conv3d: functional.conv3d,
    torch.conv_transpose1d: functional.conv_transpose1d,
    torch.conv_transpose2d: functional.conv_transpose2d,
    torch.conv_transpose3d: functional.conv_transpose3d,
}
# A call of ours that meets the mode goes on where it would be without: plain operands go past the dispatcher.
_OURS: dict[Any, Callable[..., Any]] = {OPS[face]: partial(convolve, face) for face in OPS} | {BOTH: gradients}


class everywhere(TorchFunctionMode):  # noqa: N801  a context, named as torch.no_grad is
    """Within this context, torch's convolutions are convext's, whoever calls them.

        with convext.everywhere():
            y = model(x)

    These are `torch.nn.functional.conv1d` to `conv_transpose3d`, which are `torch.conv1d` to `torch.conv_transpose3d`:
    layers that were not converted, subclasses that call them, functions of yours. Values, derivatives and errors are
    torch's; `convext.backend` says by which kernels. Contexts nest, and belong to the thread that opens them, as all
    of torch's function modes do; they work inside and around what torch.compile compiles. What TorchScript has
    compiled is not reached.

    While it is open, Python looks at every call of torch in this thread, about a microsecond each. `convext.convert`
    costs nothing of that: convert what can be converted, and open this for the rest.

    Raises:
        TypeError: it is given a model.
    """

    def __init__(self, *nothing: object) -> None:
        if nothing:
            raise TypeError("convext.everywhere() takes no model: call yours in `with convext.everywhere():`")
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (FUNCTIONS.get(func) or _OURS.get(func, func))(*args, **(kwargs or {}))
