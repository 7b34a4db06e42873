"""Trains on a volume that one process's memory refuses, on four processes that share it out in space.

    python examples/volume.py

Each process may take so much memory and no more, as a GPU has so much and no more. One process fails on the whole
volume; four that have a quarter of its depth each train on it. The network is to tell the sign of what it sees under
noise; nothing in it knows that there are others, and what its convolutions read beyond a quarter goes from process to
process.
"""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import convext
from convext.distributed import SpatialParallel, assemble, parallelize, share

SIZE, RANKS, STEPS = (64, 128, 128), 4, 3
ALLOWED = 140 * 2**20  # bytes of a process's own, beyond what it has before it trains


def network() -> nn.Module:
    """Dense, depthwise and pointwise, with a norm that is a sum over all of space."""
    torch.manual_seed(0)
    return nn.Sequential(
        convext.Conv3d(1, 8, 3, padding=1),
        nn.SiLU(),
        convext.Conv3d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        convext.Conv3d(8, 1, 1),
    )


def volume(slices: range) -> tuple[Tensor, Tensor]:
    """Waves under noise and their signs, [1, 1, slices, H, W] each: what one process has to load."""
    d, h, w = torch.meshgrid(torch.tensor(slices), torch.arange(SIZE[1]), torch.arange(SIZE[2]), indexing="ij")
    waves = torch.sin(0.3 * d + 0.2 * h) * torch.cos(0.4 * w - 0.1 * d)
    noise = torch.randn(waves.shape, generator=torch.Generator().manual_seed(slices.start))
    return (waves + 0.5 * noise)[None, None], waves.sign()[None, None]


def limit_memory() -> None:
    """Lets this process have ALLOWED more bytes of its own."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmData"].split()[0]) * 1024 + ALLOWED
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def train(model: nn.Module, x: Tensor, target: Tensor) -> list[float]:
    """Mean squared errors, step by step."""
    optimizer, errors = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        squares = (model(x) - target).square().sum()  # on four processes a sum of four sums
        error = (squares.full_tensor() if isinstance(squares, DTensor) else squares) / target.numel()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    return errors


def alone() -> None:
    """One process and the whole volume."""
    torch.set_num_threads(1)
    train(network(), *volume(range(4)))  # what is imported and started at first is not the volume's
    limit_memory()
    x, target = volume(range(SIZE[0]))
    try:
        train(network(), x, target)
        print("one process trained on the whole volume")
    except RuntimeError as error:
        print(f"one process: {str(error).splitlines()[0]}")


def together(rank: int, meeting: str) -> None:
    """One of four processes, with its quarter."""
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("space",))
    plan = SpatialParallel(0)

    def quarter(depth: int) -> list[Tensor]:
        mine = volume(share(depth, RANKS, rank))
        return [assemble(t, (1, 1, depth, *SIZE[1:]), mesh, plan) for t in mine]

    torch.set_num_threads(1)
    train(parallelize(network(), mesh, plan), *quarter(4 * RANKS))
    limit_memory()
    errors = train(parallelize(network(), mesh, plan), *quarter(SIZE[0]))
    if rank == 0:
        print(f"{RANKS} processes: mean squared error {errors[0]:.3f} at first, {errors[-1]:.3f} in step {STEPS}")
        print(convext.distributed.explain(network()[2], (1, 8, *SIZE), mesh, plan))
    dist.destroy_process_group()


def main() -> None:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # in glibc, what is freed goes back: a hole is no memory in use
    one = torch.multiprocessing.get_context("spawn").Process(target=alone)
    one.start()
    one.join()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(together, (f"file://{folder}/meeting",), nprocs=RANKS)


if __name__ == "__main__":
    main()
