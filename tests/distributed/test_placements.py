"""DTensors through the operators: every placement of their operands gives torch's result, in two processes."""

import itertools
import sys
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn import functional as F

import convext

FACES = {
    # name: (operands, ours, torch's)
    "fprop": (
        {"x": (4, 4, 7, 6), "w": (6, 4, 3, 3), "bias": (6,)},
        lambda t: convext.functional.conv2d(t["x"], t["w"], t["bias"], 2, 1),
        lambda t: F.conv2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
    "dgrad": (
        {"x": (4, 6, 4, 5), "w": (6, 4, 3, 3), "bias": (4,)},
        lambda t: convext.functional.conv_transpose2d(t["x"], t["w"], t["bias"], 2, 1),
        lambda t: F.conv_transpose2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
    "depthwise": (
        {"x": (4, 4, 7), "w": (4, 1, 3), "bias": (4,)},
        lambda t: convext.functional.conv1d(t["x"], t["w"], t["bias"], padding="causal", groups=4),
        lambda t: F.conv1d(F.pad(t["x"], (2, 0)), t["w"], t["bias"], groups=4),
    ),
    "causal": (
        {"x": (4, 4, 7), "w": (4, 3), "bias": (4,), "states": (4, 4, 2)},
        lambda t: convext.causal_conv1d.causal_conv1d_fn(
            t["x"], t["w"], t["bias"], initial_states=t["states"], activation="silu"
        ),
        lambda t: F.silu(F.conv1d(torch.cat([t["states"], t["x"]], 2), t["w"].unsqueeze(1), t["bias"], groups=4)),
    ),
}


def _compare(rank: int, face: str, file: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    shapes, ours, theirs = FACES[face]
    torch.manual_seed(0)
    plain = {role: torch.randn(shape, dtype=torch.float64).requires_grad_() for role, shape in shapes.items()}
    expected = theirs(plain)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, list(plain.values()), upstream)
    for places in itertools.product([Replicate(), Shard(0), Shard(1)], [Replicate(), Shard(0), Shard(1)]):
        placed = dict(zip("xw", places, strict=True))
        sharded = {
            role: distribute_tensor(t.detach(), mesh, [placed.get(role, Replicate())]).requires_grad_()
            for role, t in plain.items()
        }
        with convext.backend("aten"):
            actual = ours(sharded)
            mine = torch.autograd.grad(actual, list(sharded.values()), distribute_tensor(upstream, mesh, [Replicate()]))
        torch.testing.assert_close(actual.full_tensor(), expected)
        for gradient, theirs_ in zip(mine, gradients, strict=True):
            torch.testing.assert_close(gradient.full_tensor(), theirs_)
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="this torch has no torch.distributed")
@pytest.mark.parametrize("face", FACES)
def test_placements(face):
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_compare, (face, f"{folder}/meeting"), nprocs=2)
