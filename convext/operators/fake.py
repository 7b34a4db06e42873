"""The results' shapes and strides, without data: for fake tensors, from symbolic shapes too."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from convext.operators.forward import check_operands
from convext.operators.schema import LIBRARY
from convext.problem import FACES, Face, Ints, check_geometry, layout, open_shape


def fake(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """The result's shape and strides, from symbolic shapes too."""
    check_operands(face, a, b, bias, groups)
    check_geometry(size, stride, pad, dilation)
    shape = open_shape(face, a.shape, b.shape, size, groups)
    return layout.empty(shape, layout.is_channels_last(a) or layout.is_channels_last(b), a)


def _fake_both(y: Tensor, w: Tensor, x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    return (
        fake("dgrad", y, w, None, x.shape[2:], *tail),
        fake("wgrad", x, y, None, w.shape[2:], *tail),
    )


for _face in FACES:
    torch.library.register_fake(f"convext::{_face}", partial(fake, _face), lib=LIBRARY)
torch.library.register_fake("convext::dgrad_wgrad", _fake_both, lib=LIBRARY)
