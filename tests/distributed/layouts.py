"""What the tests of sharded convolutions share: problems, and how their tensors are placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_tensor

Tensors = dict[str, Tensor]


@cache
def mesh_of(*shape: int) -> DeviceMesh:
    """A mesh of CPU ranks."""
    return init_device_mesh("cpu", shape, mesh_dim_names=tuple("abc"[: len(shape)]))


def placed(t: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """A leaf that lies on the ranks of `mesh` as told."""
    return distribute_tensor(t.detach(), mesh, placements).requires_grad_(t.requires_grad)


def leaves(**shapes: tuple[int, ...]) -> Tensors:
    """Random tensors of double precision that want gradients, the same on all ranks."""
    return {name: torch.randn(shape, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}


def full(t: Tensor) -> Tensor:
    """A tensor as one process would have it."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def assert_as_on_one_rank(
    ours: Callable[[Tensors], Any], theirs: Callable[[Tensors], Any], on_one: Tensors, on_all: Tensors, case: object
) -> Tensor:
    """Value and gradients of `ours` on all ranks are those of `theirs` on one."""
    expected, actual = theirs(on_one), ours(on_all)
    torch.testing.assert_close(full(actual), expected, msg=lambda m: f"{case}: {m}")
    upstream = torch.randn_like(expected)
    wanted = [name for name, t in on_one.items() if t.requires_grad]
    gradients = torch.autograd.grad(expected, [on_one[name] for name in wanted], upstream)
    upstream_on_all = distribute_tensor(upstream, actual.device_mesh, [Replicate()] * actual.device_mesh.ndim)
    found = torch.autograd.grad(actual, [on_all[name] for name in wanted], upstream_on_all)
    for name, mine, right in zip(wanted, found, gradients, strict=True):
        torch.testing.assert_close(full(mine), right, msg=lambda m, name=name: f"{case}, gradient of {name}: {m}")
    return actual
