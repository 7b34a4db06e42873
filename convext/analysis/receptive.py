"""Which inputs an output reads, measured: poison an input with NaN, and see which outputs turn NaN.

NaN survives everything that reads it: a weight of zero, a ReLU, a saturated gate, a maximum, a mean. So this is exact
for any module that runs, whatever it is made of; it needs no table of layers. It runs on a float64 copy in eval mode
on the CPU, because fast algorithms for smaller types (Winograd's) mix neighbours.

What one output reads needs few passes: where its gradient is not zero, it reads. All that is left is poisoned at once,
and as a rule the output stays a number: then the gradient has told all. Else the poisoned part is halved, and again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    clean, base = _clean(model), _item(sample)
    axis = axis % sample.dim()

    def run(slices: list[slice]) -> Tensor:
        rows = []
        for start in range(0, len(slices), _BATCH):
            poisoned = [[(axis, where)] for where in slices[start : start + _BATCH]]
            hit = _poisoned(clean, base, poisoned).isnan()
            rows.append(hit.flatten(1) if hit.dim() < base.dim() else hit.movedim(axis, 1).flatten(2))
        found = torch.cat(rows)
        return found.any(1, keepdim=True) if found.dim() == 2 else found.any(2)

    return run


def _clean(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def _item(sample: Tensor) -> Tensor:
    return sample[:1].detach().to("cpu", torch.float64)


def _first(result: Any) -> Tensor:
    return next(t for t in tree_leaves(result) if isinstance(t, Tensor))


def _poisoned(clean: nn.Module, base: Tensor, groups: Sequence[Sequence[tuple[int, int | slice]]]) -> Tensor:
    """The model's outputs for copies of `base`, one a group, with NaN where its (axis, positions) are."""
    x = base.repeat(len(groups), *[1] * (base.dim() - 1))
    for item, group in zip(x, groups, strict=True):
        for axis, where in group:
            item[(slice(None),) * (axis - 1) + (where,)] = float("nan")
    with torch.no_grad():
        return _first(clean(x))


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


@dataclass(frozen=True)
class Centre:
    """What the central output reads.

    Attributes:
        output: its position, one number for each spatial axis; () where the model's result has none.
        read: for each spatial axis of the input, bool [positions]: whether it reads anything there.
    """

    output: tuple[int, ...]
    read: list[Tensor]

    def field(self, axis: int) -> Tensor:
        """From the first position that is read to the last: bool [receptive field]."""
        positions = self.read[axis].nonzero()
        if not len(positions):
            raise ValueError("the central output reads no input at all: give a larger sample")
        return self.read[axis][positions[0] : positions[-1] + 1]


def centre(model: nn.Module, sample: Tensor, watch: Callable[[nn.Module], object] = lambda model: None) -> Centre:
    """What the central output reads of item 0 of `sample` [N, C, *size]: a gradient, and as a rule one pass more.

    `watch` is given the copy that runs.
    """
    clean, base = _clean(model), _item(sample)
    watch(clean)
    output, gradient = _gradient(clean, base)
    read = [gradient.transpose(0, axis).flatten(1).any(1) for axis in range(2, base.dim())]
    left: list[tuple[int, int | slice]] = [
        (axis, position) for axis, mask in enumerate(read, 2) for position in (~mask).nonzero().flatten().tolist()
    ]
    groups = [left] if left else []
    while groups:
        hit = [_at(y[None], output).isnan().any() for part in _batches(groups) for y in _poisoned(clean, base, part)]
        groups = [group for group, arrived in zip(groups, hit, strict=True) if arrived]
        for group in groups:
            if len(group) == 1:
                read[group[0][0] - 2][group[0][1]] = True
        groups = [half for g in groups if len(g) > 1 for half in (g[: len(g) // 2], g[len(g) // 2 :])]
    return Centre(output, read)


def _gradient(clean: nn.Module, base: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The position of the central output, and for each input whether its gradient there is a number other than zero.

    Parameters of zero, which training starts some layers from, would hide what is behind them: they are read too.
    """
    for p in clean.parameters():
        p.requires_grad_(False).masked_fill_(p == 0, 0.01)
    x = base.clone().requires_grad_()
    with torch.enable_grad():
        y = _first(clean(x.clone()))  # a copy: the first layer may work in place
    output = () if y.dim() < base.dim() else tuple(size // 2 for size in y.shape[2:])
    weights = torch.randn(_at(y, output).shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    try:
        (gradient,) = torch.autograd.grad(_at(y, output), x, weights, allow_unused=True)
    except RuntimeError:  # nothing here can be differentiated
        gradient = None
    found = torch.zeros_like(base) if gradient is None else gradient
    return output, (found != 0) & ~found.isnan()


def _at(y: Tensor, output: tuple[int, ...]) -> Tensor:
    index: Any = (..., *output)
    return y[index]


def _batches(groups: list[Any]) -> Iterator[list[Any]]:
    return (groups[start : start + _BATCH] for start in range(0, len(groups), _BATCH))


def reads(model: nn.Module, sample: Tensor, axis: int = -1) -> Tensor:
    """Which inputs the central output reads, from the first that it reads to the last: bool [receptive field].

    Along one spatial `axis` (-1 is the last) of `sample` [N, C, *size]; item 0 is used.

    Raises:
        ValueError: it reads none.
    """
    return centre(model, sample).field(axis % sample.dim() - 2)


def receptive_field(model: nn.Module, sample: Tensor | None = None) -> tuple[int, ...]:
    """Inputs from the first to the last that an output reads, on each spatial axis.

    With a sample [N, C, *size] this is measured on the central output of any model, by a gradient and a few passes. The
    border cuts it off: the sample has to be larger than the field, and for a causal model twice as long. Without a
    sample it is the closed form

        1 + sum over layers of (k - 1) * d * (product of the strides before)

    of a convolution, a pooling layer, or a Sequential of these and of layers that work at each position alone.

    Raises:
        ValueError: no sample, and the model is not such a chain.
    """
    if sample is None:
        return _closed_form(model)
    found = centre(model, sample)
    return tuple(len(found.field(axis)) for axis in range(sample.dim() - 2))


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
