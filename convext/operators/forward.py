"""A face is computed: operands are checked, a kernel is chosen once for each problem, and runs. Below autograd."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from convext.choice import registry, settings
from convext.operators.schema import LIBRARY
from convext.problem import FACES, OPERANDS, ConvProblem, Face, Ints, layout


@lru_cache(maxsize=8192)
def plan(*problem: Any) -> tuple[registry.Run, ConvProblem]:
    """The problem and the function that computes it. Cached: to build both takes longer than a small kernel."""
    *fields, kernel = problem
    described = ConvProblem.of(*fields)
    return registry.choose(described, kernel).run, described


def compute(
    face: Face, a: Tensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
) -> Tensor:  # fmt: skip
    """Runs a face, below autograd. Every path of every face ends here."""
    check_operands(face, a, b, bias, groups)
    run, problem = plan(
        face, a.shape, b.shape, tuple(size), tuple(stride), tuple(pad), tuple(dilation), groups,
        a.dtype, layout.is_channels_last(a) or layout.is_channels_last(b), *_machine(a), kernel,
    )  # fmt: skip
    return run(problem, a, b, bias)


def _machine(t: Tensor) -> tuple[str, int, str]:
    """`device`, `arch` and `precision` of a problem with operands like `t`."""
    device = t.device
    if device.type != "cuda":
        return device.type, 0, "ieee"
    return "cuda", registry.arch(device), settings.fp32_precision() if t.dtype is torch.float32 else "ieee"


def check_operands(face: Face, a: Tensor, b: Tensor, bias: Tensor | None, groups: int) -> None:
    """Raises RuntimeError where operands differ in dtype or device, or bias does not fit: in torch's words."""
    if b.dtype != a.dtype or b.device != a.device:
        _refuse_unlike(face, OPERANDS[face][1], a, b)
    if bias is None:
        return
    if bias.dtype != a.dtype or bias.device != a.device:
        _refuse_unlike(face, "bias", a, bias)
    channels = b.shape[0] if face == "fprop" else b.shape[1] * groups if face == "dgrad" else 0
    if bias.dim() != 1 or bias.shape[0] != channels:
        raise RuntimeError(
            f"{face}: given weight of size {list(b.shape)}, expected bias to be 1-dimensional with {channels} "
            f"elements, but got bias of size {list(bias.shape)} instead"
        )


def _refuse_unlike(face: str, name: str, a: Tensor, t: Tensor) -> NoReturn:
    if t.dtype != a.dtype:
        raise RuntimeError(f"{face}: input type ({a.dtype}) and {name} type ({t.dtype}) should be the same")
    raise RuntimeError(f"{face}: expected all tensors on one device, but got {a.device} and {name} on {t.device}")


@lru_cache(maxsize=8192)
def plan_both(
    y: Ints, w: Ints, x: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int,
    dtype: torch.dtype, dgrad_last: bool, wgrad_last: bool, device: str, arch: int, precision: str, kernel: str,
) -> tuple[registry.RunBoth, ConvProblem] | None:  # fmt: skip
    """The dgrad and the function that computes it together with its wgrad, or None where they are computed apart."""
    geometry, machine = (stride, pad, dilation, groups, dtype), (device, arch, precision)
    dgrad = ConvProblem.of("dgrad", y, w, x[2:], *geometry, dgrad_last, *machine)
    wgrad = ConvProblem.of("wgrad", x, y, w[2:], *geometry, wgrad_last, *machine)
    both = registry.choose_both(dgrad, wgrad, kernel)
    return None if both is None else (both.run, dgrad)


def compute_both(
    y: Tensor, w: Tensor, x: Tensor, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str
) -> tuple[Tensor, Tensor]:
    """Both gradients of an fprop, below autograd."""
    for name, t in (("w", w), ("x", x)):
        if t.dtype != y.dtype or t.device != y.device:
            _refuse_unlike("dgrad_wgrad", name, y, t)
    y_last = layout.is_channels_last(y)
    wgrad_last = y_last or layout.is_channels_last(x)
    plan = plan_both(
        y.shape, w.shape, x.shape, tuple(stride), tuple(pad), tuple(dilation), groups,
        y.dtype, y_last or layout.is_channels_last(w), wgrad_last, *_machine(y), kernel,
    )  # fmt: skip
    if plan is None:
        tail = (stride, pad, dilation, groups, kernel)
        return compute("dgrad", y, w, None, x.shape[2:], *tail), compute("wgrad", x, y, None, w.shape[2:], *tail)
    run, dgrad = plan
    by_x, by_w = run(dgrad, y, w, x)
    return by_x, layout.dense(by_w, wgrad_last)


registry.FORGET.extend((plan.cache_clear, plan_both.cache_clear))
for _face in FACES:
    LIBRARY.impl(_face, partial(compute, _face), "CompositeExplicitAutograd")
LIBRARY.impl("dgrad_wgrad", compute_both, "CompositeExplicitAutograd")
