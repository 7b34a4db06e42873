"""What needs no halos is computed while halos are under way, and so are gradients: the same results, in this order."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any
from unittest import mock

import pytest
import test_space
import torch
import torch.distributed as dist
from layouts import assert_as_on_one_rank, full, leaves, mesh_of, placed
from test_space import PROBLEMS, by_kernel, second_derivatives
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from watching import Events, Sent, computing_meanwhile, meanwhile

import convext
from convext.distributed import SpatialParallel, explain, parallelize
from convext.distributed.explanation import costs
from convext.distributed.geometry import of_layer
from convext.distributed.halos import overlap, worth
from convext.distributed.halos.traffic import loads

CF = convext.functional


# Problems of which no shard has rows that it could compute alone.
NEVER = {
    "1-D, strides that leave gaps", "1-D, fewer results than ranks", "2-D, pointwise, stride 3",
    "1-D transposed, results of nothing",
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_space_meanwhile(ranks, name):
    counts = [count for _, count in ranks(4, computing_meanwhile, test_space.sharded, name)]
    assert any(counts) == (name not in NEVER)


@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_kernels_of_our_own_meanwhile(ranks, kernel):
    counts = [count for _, count in ranks(4, computing_meanwhile, by_kernel, kernel, torch.channels_last)]
    assert any(counts)


def test_second_derivatives_meanwhile(ranks):
    assert all(count for _, count in ranks(3, computing_meanwhile, second_derivatives))


def third_derivatives() -> None:
    """By the input, by the weight, and by both."""
    mesh, plain = mesh_of(3), leaves(x=(1, 2, 9), w=(2, 2, 3))
    on_all = {"x": placed(plain["x"], mesh, [Shard(2)]), "w": placed(plain["w"], mesh, [Replicate()])}

    def third(convolve: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        value = convolve(t["x"].sin(), t["w"].cos(), None, padding=1).sin().sum()
        for _ in range(2):
            gradients = torch.autograd.grad(value, list(t.values()), create_graph=True)
            value = sum(full(g).square().sum() for g in gradients)
        return torch.autograd.grad(value, list(t.values()))

    for mine, right in zip(third(CF.conv1d, on_all), third(F.conv1d, plain), strict=True):
        torch.testing.assert_close(full(mine), right)


@pytest.mark.skipif(torch.__version__ < "2.13", reason="torch 2.11's own DTensors have wrong third derivatives")
def test_third_derivatives_meanwhile(ranks):
    assert all(count for _, count in ranks(3, computing_meanwhile, third_derivatives))


def frozen(name: str) -> None:
    """The first layer of a network has an input without a gradient, a frozen one weights without."""
    mesh, plain = mesh_of(4), leaves(x=(2, 3, 13), w=(4, 3, 3), bias=(4,))
    plain[name] = plain[name].detach()
    on_all = {role: placed(t, mesh, [Shard(2) if role == "x" else Replicate()]) for role, t in plain.items()}
    _, ours, theirs = PROBLEMS["1-D"]
    assert_as_on_one_rank(ours, theirs, plain, on_all, name)


@pytest.mark.parametrize("name", ["x", "w"])
def test_frozen_operands_meanwhile(ranks, name):
    assert any(count for _, count in ranks(4, computing_meanwhile, frozen, name))


def checkpointed() -> None:
    """A forward that runs again in the backward pass exchanges again."""
    mesh, plain = mesh_of(3), leaves(x=(1, 2, 12), w=(2, 2, 3))
    on_all = {name: placed(t, mesh, [Shard(2) if name == "x" else Replicate()]) for name, t in plain.items()}

    def twice_convolved(convolve: Any, t: dict[str, Tensor]) -> Tensor:
        return convolve(convolve(t["x"], t["w"], None, padding=1).sin(), t["w"], None, padding=1)

    def ours(t: dict[str, Tensor]) -> Tensor:
        return checkpoint(partial(twice_convolved, CF.conv1d), t, use_reentrant=False)

    assert_as_on_one_rank(ours, partial(twice_convolved, F.conv1d), plain, on_all, "checkpointed")


def test_checkpoints_meanwhile(ranks):
    assert all(count == 4 for _, count in ranks(3, computing_meanwhile, checkpointed))


def under_autocast() -> None:
    """bfloat16: no more than twice as far from float64 as torch on one rank, and two units in the last place."""
    mesh, exact = mesh_of(4), leaves(x=(2, 8, 16, 6), w=(8, 8, 3, 3), bias=(8,))

    def run(convolve: Any, t: dict[str, Tensor]) -> list[Tensor]:
        y = full(convolve(t["x"], t["w"], t["bias"], 1, 1))
        return [y, *torch.autograd.grad(y.double().square().sum(), list(t.values()))]

    single = {name: t.detach().float().requires_grad_() for name, t in exact.items()}
    on_all = {name: placed(t, mesh, [Shard(2) if name == "x" else Replicate()]) for name, t in single.items()}
    with torch.autocast("cpu", torch.bfloat16), convext.backend("aten"):
        ours, torchs = run(CF.conv2d, on_all), run(F.conv2d, single)
    assert [full(t).dtype for t in ours] == [t.dtype for t in torchs]
    for mine, theirs, right in zip(ours, torchs, run(F.conv2d, exact), strict=True):
        floor = 2 * torch.finfo(torch.bfloat16).eps * right.abs().max()
        assert (full(mine) - right).abs().max() <= 2 * (theirs - right).abs().max() + floor


def test_autocast_meanwhile(ranks):
    assert all(count for _, count in ranks(4, computing_meanwhile, under_autocast))


def twice() -> None:
    """By kernels of convext's own, whose bits do not change: nor does the order in which ranks' terms are added."""
    mesh, plain = mesh_of(4), leaves(x=(2, 4, 20, 5), w=(4, 1, 5, 3))

    def run() -> list[Tensor]:
        on_all = {name: placed(t, mesh, [Shard(2) if name == "x" else Replicate()]) for name, t in plain.items()}
        with convext.backend("cpu"):
            y = CF.conv2d(on_all["x"], on_all["w"], None, 1, (2, 1), 1, 4)
        found = [torch.autograd.grad(y, list(on_all.values()), torch.ones_like(y), retain_graph=True) for _ in "ab"]
        return [t.to_local() for t in (y, *found[0], *found[1])]

    first, second = run(), run()
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[1:3], first[3:], rtol=0, atol=0)


def test_the_same_bits_every_time(ranks):
    assert all(count for _, count in ranks(4, computing_meanwhile, twice))


# ------------------------------------------------------------------------------------------------ what is sent


@pytest.mark.parametrize("name", ["1-D", "1-D, causal", "1-D transposed, kernel 4, stride 2", "2-D", "3-D"])
def test_bytes_are_the_least_possible_meanwhile(ranks, name):
    """What is sent is what is sent with waiting, of which `test_space` counts each row."""
    waiting = ranks(4, test_space.sent, name, (2,))
    found = ranks(4, computing_meanwhile, test_space.sent, name, (2,))
    assert [sent for sent, _ in found] == waiting
    assert any(count for _, count in found)


def bytes_of_two_derivatives() -> tuple[Any, ...]:
    """Halos that a rank has received are not sent again for a derivative of a derivative."""
    mesh, plain = mesh_of(3), leaves(x=(1, 1, 9), w=(1, 1, 3))
    x, w = placed(plain["x"], mesh, [Shard(2)]), placed(plain["w"], mesh, [Replicate()])
    with meanwhile(), Sent() as sent:
        y = CF.conv1d(x, w, None, padding=1)
        torch.autograd.grad(y, [x, w], torch.ones_like(y), create_graph=True)
    return dict(sent.messages), dict(sent.bytes)


def test_a_graph_of_the_gradients_sends_no_more(ranks):
    """A row of 8 bytes there, and one back."""
    first, middle, last = ranks(3, bytes_of_two_derivatives)
    assert first == ({1: 2}, {1: 16})
    assert middle == ({0: 2, 2: 2}, {0: 16, 2: 16})
    assert last == ({1: 2}, {1: 16})


# -------------------------------------------------------------------------------------------- in which order


def events(transposed: bool, always: bool) -> tuple[list[str], list[str]]:
    """Of a forward and of its backward pass, with 4 rows a rank and a halo of 1 from each neighbour."""
    mesh = mesh_of(3)
    plain = leaves(x=(1, 2, 12), w=(2, 2, 3))
    x, w = placed(plain["x"], mesh, [Shard(2)]), placed(plain["w"], mesh, [Replicate()])
    convolve = CF.conv_transpose1d if transposed else CF.conv1d
    seen = []
    with mock.patch.object(worth, "pays", return_value=always), convext.backend("aten"):
        for step in ("forward", "backward"):
            with Events() as found, mock.patch.object(dist, "batch_isend_irecv", found.start):
                if step == "forward":
                    y = convolve(x, w, None, padding=1)
                else:
                    torch.autograd.grad(y, [x, w], torch.ones_like(y))
            seen.append([event for event, _ in groupby(found.seen)])
    return seen[0], seen[1]


def test_own_rows_are_computed_between_start_and_wait(ranks):
    """Of the rank in the middle: its 4 rows at once, then an edge of 1 row, twice. Backwards edges come first, by the 3
    rows of their windows; then messages leave, before gradients of the weight, of 3 taps, are computed."""
    _, (forward, backward), _ = ranks(3, events, False, True)
    assert forward == ["start", "fprop 4", "wait", "fprop 1"]
    assert backward == ["dgrad 3", "start", "wgrad 3", "dgrad_wgrad 4", "wait"]


def test_transposed_rows_are_computed_between_start_and_wait(ranks):
    _, (forward, backward), _ = ranks(3, events, True, True)
    assert forward == ["start", "dgrad 4", "wait", "dgrad 1"]
    assert backward[:3] == ["fprop 3", "start", "wgrad 3"]
    assert sorted(backward[3:-1]) == ["fprop 4", "wgrad 3"]
    assert backward[-1] == "wait"


def test_a_small_problem_waits(ranks):
    for forward, backward in ranks(3, events, False, False):
        assert forward[:2] == ["start", "wait"]
        assert forward[2:] == ["fprop 4"]
        assert backward[-2:] == ["start", "wait"]


# --------------------------------------------------------------------------------------------------- the rule


def test_the_rule():
    """Messages of 3, a copy of 1, a problem of 10: what it saves is 3, and edges may take as much."""
    assert worth.pays(worth.Costs(messages=3.0, copy=1.0, problem=10.0, edges=2.9))
    assert not worth.pays(worth.Costs(messages=3.0, copy=1.0, problem=10.0, edges=3.1))
    assert worth.pays(worth.Costs(messages=3.0, copy=9.0, problem=10.0, edges=8.9))  # the copy is saved as well
    assert not worth.pays(worth.Costs(messages=10.0, copy=1.0, problem=0.1, edges=0.2))  # little to hide behind


def test_what_a_forward_costs():
    """128 x 128 x 128 voxels of 32 channels a rank, in bfloat16, on an H100: 798 TFLOP/s, 3 TB/s, 450 GB/s."""
    row, layer = 32 * 128 * 128 * 2, nn.Conv3d(32, 32, 3, padding=1, device="meta")
    (_, load, *_) = loads(g := of_layer(layer, SHAPE), SHAPE, (4,), [SpatialParallel(0)])
    found = costs(layer, g, load, torch.bfloat16)
    products, weight = 2 * 27 * 32 * 32 * 128**2 / 798e12, 27 * 32 * 32 * 2
    assert found.messages == pytest.approx(20e-6 + 2 * row / 450e9)
    assert found.copy == pytest.approx(2 * 130 * row / 3e12)
    assert found.problem == pytest.approx(128 * products)
    assert found.edges == pytest.approx(2 * (3 * 5e-6 + (4 * row + weight) / 3e12))  # 3 rows are read, 1 is written
    assert found.waiting == pytest.approx(found.copy + found.problem)
    assert found.meanwhile == pytest.approx(found.problem + found.edges)


SHAPE = (1, 32, 512, 128, 128)


def called(launch: float) -> tuple[int, str]:
    """How often a layer computes meanwhile where a launch takes so long, and what is told of it."""
    layer, shape = nn.Conv2d(2, 2, 3, padding=1, groups=2), (1, 2, 64, 9)
    worth.costs.cache_clear()
    with (
        mock.patch.object(worth, "LAUNCH", launch),
        mock.patch.object(overlap, "convolve", wraps=overlap.convolve) as calls,
        torch.no_grad(),
    ):
        told = explain(layer, shape, (4,), SpatialParallel(0))
        parallelize(layer, mesh_of(4), SpatialParallel(0))(torch.zeros(shape))
    worth.costs.cache_clear()
    return calls.call_count, told


@pytest.mark.parametrize("launch", [0.0, 5e-6])
def test_what_is_told_is_what_is_done(ranks, launch):
    for count, told in ranks(4, called, launch):
        assert count == (launch == 0)
        assert told.count("    hidden: 0 of 20 us of its messages, behind 1") == 4 * count
        assert told.count("    not hidden: 20 us of its messages") == 4 * (1 - count)
