"""Each layer of a parallelized model, alone, on uneven and empty shards: value, gradients and what it remembers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layouts import full, mesh_of
from torch import nn
from watching import computing_meanwhile

import convext
from convext.distributed import BatchParallel, ChannelParallel, SpatialParallel, parallelize

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    # name: (layer, shape of its input)
    "torch.nn's": (lambda: nn.Conv2d(4, 6, 3, 2, 1), (3, 4, 9, 7)),
    "circular": (lambda: nn.Conv2d(4, 4, 3, 1, 2, 2, padding_mode="circular"), (3, 4, 7, 6)),
    "circular, once around": (lambda: nn.Conv1d(4, 4, 5, 1, 5, padding_mode="circular"), (3, 4, 5)),
    "circular, 2-D": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (3, 4, 12, 7)),
    "replicate, 1-D": (lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="replicate"), (3, 4, 14)),
    "reflect, 2-D": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (3, 4, 5, 12)),
    "reflect, strided": (lambda: nn.Conv2d(4, 4, 3, 2, 2, padding_mode="reflect", groups=4), (3, 4, 7, 5)),
    "replicate, 3-D": (lambda: nn.Conv3d(4, 4, 3, 1, 1, padding_mode="replicate"), (3, 4, 5, 4, 3)),
    "same with a stride": (lambda: convext.Conv2d(4, 4, 3, 2, padding="same", padding_mode="reflect"), (3, 4, 9, 8)),
    "causal": (lambda: convext.Conv1d(4, 4, 4, padding="causal", groups=4), (3, 4, 11)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=2), (3, 4, 5, 6)),
    "batch norm": (lambda: nn.BatchNorm2d(4), (3, 4, 5, 6)),
    "batch norm, plain average": (lambda: nn.BatchNorm1d(4, momentum=None, affine=False), (3, 4, 7)),
    "batch norm that remembers nothing": (lambda: nn.BatchNorm3d(4, track_running_stats=False), (3, 4, 3, 5, 2)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5, 6)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), (3, 4, 5, 6)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), (3, 4, 9, 7)),
    "max pool, dilated, ceil": (lambda: nn.MaxPool1d(2, 3, 1, 2, ceil_mode=True), (3, 4, 11)),
    "mean pool": (lambda: nn.AvgPool2d(3, 2, 1), (3, 4, 9, 7)),
    "mean pool, ceil": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (3, 4, 8, 6)),
    "mean pool of what is there": (lambda: nn.AvgPool3d(2, 2, 1, count_include_pad=False), (3, 4, 5, 4, 6)),
    "mean pool, divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), (3, 4, 6, 6)),
    "mean pool, 1-D": (lambda: nn.AvgPool1d(3, 1, 1), (3, 4, 9)),
    "global pool": (lambda: nn.AdaptiveAvgPool2d(1), (3, 4, 5, 6)),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (3, 4, 9, 6)),
    "upsampling": (lambda: nn.Upsample(scale_factor=2), (3, 4, 5, 3)),
    "upsampling to a size": (lambda: nn.Upsample(size=(15, 7, 6), mode="nearest-exact"), (3, 4, 5, 7, 3)),
    "PReLU": (lambda: nn.PReLU(), (3, 4, 5, 3)),
    "a head": (lambda: nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5)), (3, 4, 7)),
}


def gradients(model: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Result, and gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    y = full(model(x))
    return y, [full(g) for g in torch.autograd.grad((y * upstream).sum(), [x, *model.parameters()])]


def as_on_one_rank(name: str) -> None:
    make, shape = LAYERS[name]
    plans: list[tuple[tuple[int, ...], list[Any]]] = [((4,), [SpatialParallel(axis)]) for axis in range(len(shape) - 2)]
    plans += [((2, 2), [BatchParallel(), SpatialParallel(-1)]), ((2, 2), [BatchParallel(), ChannelParallel()])]
    if len(shape) > 3:
        plans.append(((2, 2), [SpatialParallel(1), SpatialParallel(0)]))
    for mesh_shape, plan in plans:
        torch.manual_seed(1)
        model = make().double().train()
        theirs = copy.deepcopy(model)
        ours = parallelize(copy.deepcopy(model), mesh_of(*mesh_shape), plan)
        x = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            upstream = torch.randn_like(copy.deepcopy(model)(x))
        for _ in range(2):  # what is remembered goes in the second time
            expected, right = gradients(theirs, x, upstream)
            actual, mine = gradients(ours, x, upstream)
            torch.testing.assert_close(actual, expected, msg=lambda m, plan=plan: f"{plan}: {m}")
            for i, (a, b) in enumerate(zip(mine, right, strict=True)):
                torch.testing.assert_close(a, b, msg=lambda m, plan=plan, i=i: f"{plan}, gradient {i}: {m}")
        kept = {key: full(t) for key, t in ours.state_dict().items()}
        torch.testing.assert_close(kept, dict(theirs.state_dict()))
        torch.testing.assert_close(full(ours.eval()(x)), theirs.eval()(x))
        assert type(ours(torch.randn(shape, dtype=torch.float64))) is not torch.Tensor


@pytest.mark.parametrize("name", LAYERS)
def test_layers_as_on_one_rank(ranks, name):
    ranks(4, as_on_one_rank, name)


@pytest.mark.parametrize(
    "name", ["torch.nn's", "circular, 2-D", "replicate, 1-D", "reflect, 2-D", "causal", "transposed"]
)
def test_layers_that_compute_while_they_exchange(ranks, name):
    assert any(count for _, count in ranks(4, computing_meanwhile, as_on_one_rank, name))
