"""Networks trained on several ranks are those trained on one: sharded in space, with data beside it, DDP, FSDP2."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from layouts import full, mesh_of
from networks import UNet, Volumes
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel
from watching import computing_meanwhile

import convext
from convext.distributed import BatchParallel, ChannelParallel, SpatialParallel, assemble, parallelize

NETWORKS = {"U-Net": (UNet, (4, 2, 20, 12)), "volumes": (Volumes, (4, 1, 11, 6, 7))}
BACKENDS = ("auto", "aten")


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, its input and what it is to give."""
    torch.manual_seed(2)
    network, shape = NETWORKS[name]
    model, x = network().double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        return model, x, torch.randn_like(copy.deepcopy(model)(x))


def train(model: nn.Module, x: Tensor, target: Tensor, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and what the model is in the end."""
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (full(model(x)) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {key.replace("module.", ""): full(t.detach()) for key, t in model.state_dict().items()}


def assert_trains_alike(name: str, shape: tuple[int, ...], plan: Any, steps: int = 20) -> None:
    model, x, target = made(name)
    ours = parallelize(copy.deepcopy(model), mesh_of(*shape), plan)
    for backend in BACKENDS[: 1 if steps > 5 else 2]:
        with convext.backend(backend):
            losses, kept = train(copy.deepcopy(ours), x, target, steps)
        expected, right = train(copy.deepcopy(model), x, target, steps)
        assert expected[-1] < 0.9 * expected[0]
        torch.testing.assert_close(losses, expected)
        torch.testing.assert_close(kept, right)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_space(ranks, name):
    ranks(4, assert_trains_alike, name, (4,), SpatialParallel(0))


def test_while_halos_are_under_way(ranks):
    counts = ranks(4, computing_meanwhile, assert_trains_alike, "U-Net", (4,), SpatialParallel(0), 5)
    assert all(count > 5 for _, count in counts)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "plan",
    [
        [BatchParallel(), SpatialParallel(-1)],
        [SpatialParallel(0), SpatialParallel(1)],
        [BatchParallel(), ChannelParallel()],
        [SpatialParallel(0), ChannelParallel(by_input=("*pointwise.1", "second.0"))],
    ],
    ids=str,
)
def test_on_two_axes(ranks, name, plan):
    ranks(4, assert_trains_alike, name, (2, 2), plan, 5)


# ------------------------------------------------------------------------------------- beside torch's own ways


def beside_data_parallel(how: str) -> None:
    """Two groups of ranks have one half of the images each, and each image in two parts."""
    model, x, target = made("U-Net")
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.eval()  # its statistics would be those of half of the images
    mesh = mesh_of(2, 2)
    data, space = mesh["a"], mesh["b"]
    ours = parallelize(copy.deepcopy(model), space, SpatialParallel(0))
    if how == "DDP":
        ours = DistributedDataParallel(ours, process_group=data.get_group())
    else:
        for layer in ours.children():
            fully_shard(layer, mesh=data)
        fully_shard(ours, mesh=data)
    half = slice(None, 2) if data.get_local_rank() == 0 else slice(2, None)
    _, kept = train(ours, x[half], target[half], 5)
    _, right = train(model, x, target, 5)
    torch.testing.assert_close(kept, right)


@pytest.mark.parametrize("how", ["DDP", "FSDP2"])
def test_beside_data_parallel(ranks, how):
    ranks(4, beside_data_parallel, how)


def saved(folder: str) -> dict[str, Tensor]:
    """What four ranks save, and what each parameter is."""
    model, x, target = made("volumes")
    ours = parallelize(model, mesh_of(2, 2), [SpatialParallel(0), ChannelParallel()])
    train(ours, x, target, 1)
    torch.distributed.checkpoint.save({"model": ours.state_dict()}, checkpoint_id=folder)
    return {key: full(t).detach() for key, t in ours.state_dict().items()}


def loaded(folder: str, mesh: tuple[int, ...], plan: Any) -> dict[str, Tensor]:
    ours = parallelize(made("volumes")[0], mesh_of(*mesh), plan)
    state = {"model": ours.state_dict()}
    torch.distributed.checkpoint.load(state, checkpoint_id=folder)
    ours.load_state_dict(state["model"])
    return {key: full(t).detach() for key, t in ours.state_dict().items()}


def test_a_checkpoint_is_anybodys(ranks, tmp_path):
    """Saved on 2 x 2 ranks, loaded on three of one axis, on two of another, and without any."""
    expected = ranks(4, saved, str(tmp_path))[0]
    for found in (
        *ranks(3, loaded, str(tmp_path), (3,), ChannelParallel()),
        *ranks(2, loaded, str(tmp_path), (2,), SpatialParallel(1)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    alone = Volumes().double()
    state = {"model": alone.state_dict()}
    torch.distributed.checkpoint.load(state, checkpoint_id=str(tmp_path), no_dist=True)
    torch.testing.assert_close(state["model"], expected, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------- pipeline stages


class Stage(nn.Module):
    """A stage between whose plain inputs and results each rank has its part."""

    def __init__(self, model: nn.Module, mesh: DeviceMesh) -> None:
        super().__init__()
        self.model, self.mesh = parallelize(model, mesh, SpatialParallel(0)), mesh

    def forward(self, part: Tensor) -> Tensor:
        rows = part.shape[2] * self.mesh.size()
        return self.model(
            assemble(part, (*part.shape[:2], rows, part.shape[3]), self.mesh, SpatialParallel(0))
        ).to_local()


def pipelined() -> None:
    torch.manual_seed(3)
    stages = [nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU()), nn.Conv2d(4, 1, 5, padding=2)]
    whole = nn.Sequential(*copy.deepcopy(stages)).double()
    mesh = mesh_of(2, 2)
    pipe, space = mesh["a"], mesh["b"]
    stage, rank = pipe.get_local_rank(), space.get_local_rank()
    ours = Stage(stages[stage].double(), space)
    x, target = torch.randn(4, 2, 8, 6, dtype=torch.float64), torch.randn(4, 1, 8, 6, dtype=torch.float64)
    schedule = ScheduleGPipe(
        PipelineStage(ours, stage, 2, torch.device("cpu"), group=pipe.get_group()), 2,
        loss_fn=lambda y, t: (y - t).square().sum(), scale_grads=False,
    )  # fmt: skip
    mine = (slice(None), slice(None), slice(4 * rank, 4 * rank + 4))
    if stage == 0:
        schedule.step(x[mine].contiguous())
    else:
        schedule.step(target=target[mine].contiguous())
    (whole(x) - target).square().sum().backward()
    right = [p.grad for p in whole[stage].parameters()]
    torch.testing.assert_close([p.grad for p in ours.parameters()], right)


def test_pipeline_stages(ranks):
    ranks(4, pipelined)
