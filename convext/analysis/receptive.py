"""Which inputs an output reads, measured: poison an input with NaN, and see which outputs turn NaN.

NaN survives everything that reads it: a weight of zero, a ReLU, a saturated gate, a maximum, a mean. So this is exact
for any module that runs, whatever it is made of; it needs no table of layers. It runs on a float64 copy in eval mode
on the CPU, because fast algorithms for smaller types (Winograd's) mix neighbours.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convext.problem import Ints

_BATCH = 16  # poisoned copies of the sample that go through the model at once

# A function from slices of the poisoned axis to [number of slices, outputs along that axis], True where NaN arrived.
Probe = Callable[[list[slice]], Tensor]


def probe(model: nn.Module, sample: Tensor, axis: int) -> Probe:
    """Prepares the measurement along spatial `axis` (-1 is the last) of item 0 of `sample` [N, C, *size].

    The model's first output tensor counts. Where it has fewer axes than the sample, as a classifier's has, all of it is
    one output.
    """
    clean = copy.deepcopy(model).to("cpu", torch.float64).eval()
    base = sample[:1].detach().to("cpu", torch.float64)
    axis = axis % sample.dim()

    def run(slices: list[slice]) -> Tensor:
        rows = []
        for start in range(0, len(slices), _BATCH):
            x = base.repeat(len(slices[start : start + _BATCH]), *[1] * (base.dim() - 1))
            for item, where in zip(x, slices[start:], strict=False):
                item[(slice(None),) * (axis - 1) + (where,)] = float("nan")
            with torch.no_grad():
                y = next(t for t in tree_leaves(clean(x)) if isinstance(t, Tensor))
            hit = y.isnan()
            rows.append(hit.flatten(1) if hit.dim() < x.dim() else hit.movedim(axis, 1).flatten(2))
        found = torch.cat(rows)
        return found.any(1, keepdim=True) if found.dim() == 2 else found.any(2)

    return run


def dependence(model: nn.Module, sample: Tensor, axis: int = -1) -> Tensor:
    """Which outputs read which inputs along one axis: bool [outputs, inputs].

    One forward pass for each input position along the axis: choose a small sample.

    Args:
        model: any module that takes `sample` alone.
        sample: [N, C, *size], real; item 0 is used.
        axis: a spatial axis, -1 the last.
    """
    inputs = sample.shape[axis]
    return probe(model, sample, axis)([slice(i, i + 1) for i in range(inputs)]).T.contiguous()


def reads(model: nn.Module, sample: Tensor, axis: int = -1) -> Tensor:
    """Which inputs the central output reads, from the first that it reads to the last: bool [receptive field]."""
    run = probe(model, sample, axis)
    first, last, output = _extent(run, sample.shape[axis])
    return run([slice(i, i + 1) for i in range(first, last + 1)])[:, output]


def receptive_field(model: nn.Module, sample: Tensor | None = None) -> tuple[int, ...]:
    """Inputs from the first to the last that an output reads, on each spatial axis.

    With a sample [N, C, *size] this is measured on the central output of any model, in 2 log2(size) passes an axis. The
    border cuts it off: the sample has to be larger than the field, and for a causal model twice as long. Without a
    sample it is the closed form

        1 + sum over layers of (k - 1) * d * (product of the strides before)

    of a convolution, a pooling layer, or a Sequential of these and of layers that work at each position alone.

    Raises:
        ValueError: no sample, and the model is not such a chain.
    """
    if sample is None:
        return _closed_form(model)
    sizes = []
    for axis in range(2, sample.dim()):
        first, last, _ = _extent(probe(model, sample, axis), sample.shape[axis])
        sizes.append(last - first + 1)
    return tuple(sizes)


def _extent(run: Probe, inputs: int) -> tuple[int, int, int]:
    """(first input, last input) that the central output reads, and which output this is. By bisection."""
    output = run([slice(0, inputs)]).shape[1] // 2

    def hit(begin: int, end: int) -> bool:
        return bool(run([slice(begin, end)])[0, output])

    if not hit(0, inputs):
        raise ValueError("the central output reads no input at all: give a larger sample")
    first = bisect_left(range(inputs), True, key=lambda i: hit(0, i + 1))
    past = bisect_left(range(inputs), True, key=lambda i: not hit(i, inputs))
    return first, past - 1, output


# ------------------------------------------------------------------------------------------------ closed form

_POOLS = {
    1: (nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d),
}
_POSITIONWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip


def _closed_form(model: nn.Module) -> tuple[int, ...]:
    field: list[int] = []
    jump: list[int] = []
    for kernel, stride, dilation in _chain(model):
        field, jump = field or [1] * len(kernel), jump or [1] * len(kernel)
        field = [f + (k - 1) * d * j for f, k, d, j in zip(field, kernel, dilation, jump, strict=True)]
        jump = [j * s for j, s in zip(jump, stride, strict=True)]
    return tuple(field)


def _chain(module: nn.Module) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(kernel, stride, dilation) of each layer, in order."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _chain(child)
        return
    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        yield module.kernel_size, module.stride, module.dilation
        return
    for rank, kinds in _POOLS.items():
        if isinstance(module, kinds):
            pool: Any = module
            kernel, stride, dilation = pool.kernel_size, pool.stride, getattr(pool, "dilation", 1)
            yield _each(kernel, rank), _each(stride, rank), _each(dilation, rank)
            return
    if not isinstance(module, _POSITIONWISE):
        raise ValueError(f"no closed form for {type(module).__name__}: give a sample, and it is measured")


def _each(value: int | Iterable[int], rank: int) -> tuple[int, ...]:
    each = (value,) * rank if isinstance(value, int) else tuple(value)
    return each * rank if len(each) == 1 else each
