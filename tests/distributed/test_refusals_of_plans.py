"""What goes wrong is told by name: layers without a rule, gathered inputs, ranks that die or do not answer."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layouts import mesh_of
from torch import Tensor, nn
from torch.distributed.tensor import Replicate

import convext
from convext.distributed import BatchParallel, SpatialParallel, assemble, parallelize
from convext.distributed.layers.swaps import of_model


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.conv = nn.Conv2d(1, 1, 1)


class MyConv(nn.Conv2d):
    pass


def test_layers_without_a_rule_are_refused_by_name():
    refused = {
        "LPPool2d": nn.LPPool2d(2, 2),
        "Upsample of mode 'bilinear'": nn.Upsample(scale_factor=2, mode="bilinear"),
        "LayerNorm": nn.LayerNorm(4),
        "Scaled has parameters": Scaled(),
        "MyConv has parameters": MyConv(1, 1, 1),
        "MaxPool2d with return_indices": nn.MaxPool2d(2, return_indices=True),
        "InstanceNorm2d with running statistics": nn.InstanceNorm2d(2, track_running_stats=True),
        "Dropout2d": nn.Dropout2d(),
        "ShortConvolution": convext.ShortConvolution(4, 3),
    }
    model = nn.ModuleDict({f"layer{i}": layer for i, layer in enumerate(refused.values())})
    model["fine"] = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    with pytest.raises(ValueError, match="no rule is known for 9 of the model's layers") as told:
        of_model(model)
    for i, why in enumerate(refused):
        assert f"  layer{i}: {why}" in str(told.value)
    assert "fine" not in str(told.value)


class Gathers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.redistribute(placements=[Replicate()]))


def mistakes() -> None:
    mesh, x = mesh_of(2), torch.randn(1, 1, 12, 12)
    for plan, told in (
        ([BatchParallel(), SpatialParallel(0)], "a plan for each of the mesh's 1 axes"),
        ("space", "a plan for each of the mesh's 1 axes"),
    ):
        with pytest.raises(ValueError, match=told):
            parallelize(nn.Conv2d(1, 1, 3), mesh, plan)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"each axis of space once, counted from one end, but got \[0, -1\]"):
        parallelize(nn.Conv2d(1, 1, 3), mesh_of(2, 1), [SpatialParallel(0), SpatialParallel(-1)])
    with pytest.raises(ValueError, match=r"part of \[1, 1, 12, 12\] to be \[1, 1, 6, 12\], but got \[1, 1, 5, 12\]"):
        assemble(x[:, :, :5], x.shape, mesh, SpatialParallel(0))
    model = parallelize(Gathers(), mesh, SpatialParallel(0))
    with pytest.raises(
        RuntimeError,
        match=r"layer 'conv': expected an input that is sharded along mesh axis 'a', but got \[1, 1, 12, 12\]",
    ):
        model(x)
    with pytest.raises(ValueError, match="conv: ShardedConv2d was parallelized before"):
        parallelize(model, mesh, SpatialParallel(0))
    sizes = parallelize(nn.Sequential(nn.Identity(), nn.Upsample(size=(30, 12))), mesh, SpatialParallel(0))
    with pytest.raises(
        ValueError, match=r"layer '1': .*multiples of the input's sizes, \[12, 12\], but got \[30, 12\]"
    ):
        sizes(x)
    wraps = parallelize(
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=13, padding_mode="circular")), mesh, SpatialParallel(0)
    )
    with pytest.raises(RuntimeError, match="layer '0': Padding value causes wrapping around more than once"):
        wraps(x)
    unbatched = parallelize(nn.Sequential(nn.Conv2d(1, 1, 3)), mesh, SpatialParallel(0))
    with pytest.raises(RuntimeError, match=r"layer '0': expected \[N, C, \*2 axes of space\]"):
        unbatched(x[0])


def test_mistakes_are_named(ranks):
    ranks(2, mistakes)


def slow(where: str, given_up: str) -> Any:
    """What rank 0 is told when rank 1 does not answer in the forward, or the backward pass, until it has given up."""
    torch.manual_seed(0)
    model = parallelize(
        nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1)), mesh_of(2), SpatialParallel(0)
    )
    x = torch.randn(1, 1, 8)
    if where == "backward":
        y = model(x).to_local().sum()
    if dist.get_rank() == 1:
        while not Path(given_up).exists():
            time.sleep(0.05)
        return None
    try:
        with pytest.raises(RuntimeError) as told:
            y.backward() if where == "backward" else model(x)
    finally:
        Path(given_up).touch()
    return str(told.value)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_slow_rank_is_told_with_the_layers_name(ranks, where, tmp_path):
    told, _ = ranks(2, slow, where, str(tmp_path / "given_up"), seconds=6)
    layer = "1" if where == "backward" else "0"
    assert told.startswith(f"layer '{layer}': the exchange of halos with ranks [1] of its group failed: ")
    assert "Timed out" in told or "timeout" in told.lower()


def dies(folder: str) -> None:
    model = parallelize(nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1)), mesh_of(2), SpatialParallel(0))
    if dist.get_rank() == 1:
        os._exit(1)
    try:
        model(torch.randn(1, 1, 8))
    except RuntimeError as error:
        with open(f"{folder}/told", "w") as file:
            file.write(str(error))


def test_a_dead_rank_is_told_with_the_layers_name(ranks, tmp_path):
    with pytest.raises(AssertionError, match="rank 1 has died"):
        ranks(2, dies, str(tmp_path), seconds=10)
    deadline = time.monotonic() + 10
    while not (tmp_path / "told").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "told").read_text().startswith("layer '1': the sum over the ranks of its group failed: ")
