"""Inputs sharded in space: every axis, halos from as many ranks as they reach, in the fewest bytes there can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layouts import assert_as_on_one_rank, leaves, mesh_of, placed
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn import functional as F
from watching import Sent

import convext
from convext.distributed import SpatialParallel, assemble, share
from convext.distributed.placement import own

CF = convext.functional
PROBLEMS: dict[str, tuple[dict[str, tuple[int, ...]], Any, Any]] = {}  # name: (operands, ours, torch's)


def problem(name: str, x: tuple[int, ...], w: tuple[int, ...], padding: Any = 0, **keywords: Any) -> None:
    """A convolution. torch's is of a padded copy; `padding` is (begin, end) of each axis, or a number for all."""
    rank = len(x) - 2
    pads = padding if isinstance(padding, tuple) else ((padding, padding),) * rank
    flat = [side for pair in reversed(pads) for side in pair]
    ours, theirs = getattr(CF, f"conv{rank}d"), getattr(F, f"conv{rank}d")
    PROBLEMS[name] = (
        {"x": x, "w": w, "bias": w[:1]},
        lambda t: ours(t["x"], t["w"], t["bias"], padding=pads, **keywords),
        lambda t: theirs(F.pad(t["x"], flat), t["w"], t["bias"], **keywords),
    )


def transposed(name: str, x: tuple[int, ...], w: tuple[int, ...], **keywords: Any) -> None:
    rank = len(x) - 2
    ours, theirs = getattr(CF, f"conv_transpose{rank}d"), getattr(F, f"conv_transpose{rank}d")
    channels = w[1] * keywords.get("groups", 1)
    PROBLEMS[name] = (
        {"x": x, "w": w, "bias": (channels,)},
        lambda t: ours(t["x"], t["w"], t["bias"], **keywords),
        lambda t: theirs(t["x"], t["w"], t["bias"], **keywords),
    )


problem("1-D", (2, 3, 12), (4, 3, 3), 1)
problem("1-D, uneven, an empty shard", (2, 3, 9), (4, 3, 3), 1)
problem("1-D, one row each, and none", (2, 3, 3), (4, 3, 3), 1)
problem("1-D, causal", (2, 4, 13), (4, 1, 4), ((3, 0),), groups=4)
problem("1-D, dilation wider than a shard", (2, 3, 13), (3, 3, 3), 5, dilation=5)
problem("1-D, strides that leave gaps", (2, 3, 14), (3, 3, 2), 1, stride=5)
problem("1-D, fewer results than ranks", (2, 3, 11), (3, 3, 9))
problem("1-D, padding beyond the kernel", (2, 3, 4), (3, 3, 2), ((3, 5),))
problem("2-D", (2, 4, 9, 7), (4, 4, 3, 3), 1)
problem("2-D, stride 2, asymmetric", (1, 4, 11, 10), (2, 4, 3, 2), ((0, 1), (1, 0)), stride=2)
problem("2-D, dilated depthwise", (2, 4, 10, 9), (8, 1, 3, 5), ((2, 2), (4, 4)), dilation=2, groups=4)
problem("2-D, pointwise, stride 3", (2, 4, 10, 9), (4, 4, 1, 1), stride=3)
problem("3-D", (1, 2, 6, 5, 7), (2, 2, 3, 3, 3), 1)
problem("3-D depthwise, stride (1, 2, 2)", (1, 3, 5, 6, 7), (3, 1, 3, 3, 3), 1, stride=(1, 2, 2), groups=3)
transposed("1-D transposed, kernel 2, stride 2", (2, 3, 7), (3, 2, 2), stride=2)
transposed("1-D transposed, kernel 4, stride 2", (2, 3, 6), (3, 2, 4), stride=2, padding=1)
transposed("1-D transposed, results of nothing", (2, 3, 5), (3, 2, 1), stride=3, output_padding=2)
transposed("1-D transposed, wide", (2, 3, 6), (3, 2, 5), padding=2, dilation=2)
transposed("2-D transposed", (2, 4, 5, 6), (4, 3, 3, 3), stride=2, padding=1, output_padding=1)
transposed("3-D transposed depthwise", (1, 2, 3, 4, 5), (2, 1, 2, 2, 2), stride=2, groups=2)


def sharded(name: str) -> None:
    """Over 2 to 4 ranks, each axis of space, and two at once."""
    shapes, ours, theirs = PROBLEMS[name]
    on_one, dims = leaves(**shapes), range(2, len(shapes["x"]))
    layouts = [(mesh_of(4), [Shard(dim)]) for dim in dims]
    if len(dims) > 1:
        square = mesh_of(2, 2)
        layouts += [(square, [Shard(2), Shard(3)]), (square, [Shard(len(dims) + 1), Shard(2)])]
    else:
        layouts.append((mesh_of(2, 2), [Shard(0), Shard(2)]))
    for mesh, places in layouts:
        everywhere = [Replicate()] * mesh.ndim
        for backend in ("auto", "aten"):
            on_all = {role: placed(t, mesh, places if role == "x" else everywhere) for role, t in on_one.items()}
            with convext.backend(backend):
                y = assert_as_on_one_rank(ours, theirs, on_one, on_all, (places, backend))
            assert list(y.placements) == places


@pytest.mark.parametrize("name", PROBLEMS)
def test_space(ranks, name):
    ranks(4, sharded, name)


def plain_weights() -> None:
    """A weight and a bias that are no DTensors are everybody's, and so are their gradients."""
    on_one, mesh = leaves(x=(2, 3, 7), w=(3, 3, 3), bias=(3,)), mesh_of(3)
    on_all = {
        name: placed(t, mesh, [Shard(2)]) if name == "x" else t.detach().requires_grad_() for name, t in on_one.items()
    }
    _, ours, theirs = PROBLEMS["1-D"]
    assert_as_on_one_rank(ours, theirs, on_one, on_all, "plain")


def test_plain_weights(ranks):
    ranks(3, plain_weights)


def second_derivatives() -> None:
    mesh = mesh_of(3)
    plain = leaves(x=(2, 2, 8), w=(2, 2, 3))

    def penalty(convolve: Any, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = convolve(t["x"].sin(), t["w"], None, padding=1).cos()
        (gradient,) = torch.autograd.grad(y.sum(), t["x"], create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(t.values()))

    for weights in (lambda t: placed(t, mesh, [Replicate()]), lambda t: t):
        on_all = {"x": placed(plain["x"], mesh, [Shard(2)]), "w": weights(plain["w"])}
        for mine, right in zip(penalty(CF.conv1d, on_all), penalty(F.conv1d, plain), strict=True):
            torch.testing.assert_close(mine.full_tensor() if isinstance(mine, DTensor) else mine, right)


def test_second_derivatives(ranks):
    ranks(3, second_derivatives)


def by_kernel(kernel: str, memory: torch.memory_format) -> None:
    """A depthwise layer in float32 by one provider: no more than twice as far from float64 as torch on one rank."""
    mesh = mesh_of(2, 2)
    exact = leaves(x=(1, 4, 9, 11), w=(4, 1, 3, 3))

    def run(convolve: Any, t: dict[str, Tensor]) -> list[Tensor]:
        y = convolve(t["x"], t["w"], None, 2, 1, 1, 4)
        whole = y.full_tensor() if isinstance(y, DTensor) else y
        return [whole, *torch.autograd.grad(whole.square().sum(), list(t.values()))]

    single = {name: t.detach().float().contiguous(memory_format=memory).requires_grad_() for name, t in exact.items()}
    rows, columns = (share(size, 2, mesh.get_local_rank(axis)) for size, axis in ((9, 1), (11, 0)))
    mine = single["x"].detach()[:, :, rows.start : rows.stop, columns.start : columns.stop]
    x = assemble(mine.contiguous(memory_format=memory), (1, 4, 9, 11), mesh, [SpatialParallel(1), SpatialParallel(0)])
    on_all = {"x": x.detach().requires_grad_(), "w": placed(single["w"], mesh, [Replicate(), Replicate()])}
    with convext.backend(kernel):
        ours = run(CF.conv2d, on_all)
        y = own(CF.conv2d(on_all["x"], on_all["w"], None, 2, 1, 1, 4))
    assert y.is_contiguous(memory_format=memory)
    for found, torchs, right in zip(ours, run(F.conv2d, single), run(F.conv2d, exact), strict=True):
        whole = found.full_tensor() if isinstance(found, DTensor) else found
        floor = 2 * torch.finfo(torch.float32).eps * right.abs().max()
        assert (whole - right).abs().max() <= 2 * (torchs - right).abs().max() + floor


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kernel", ["aten", "cpu", "triton"])
def test_kernels_of_every_provider(ranks, kernel, memory):
    ranks(4, by_kernel, kernel, memory)


# ------------------------------------------------------------------------------------------------ what is sent


def sent(name: str, dims: tuple[int, ...]) -> list[Any]:
    """What a forward and a backward send, in rows of the whole input: [(bytes, messages, collectives)] by receiver."""
    shapes, ours, _ = PROBLEMS[name]
    mesh = mesh_of(4) if len(dims) == 1 else mesh_of(2, 2)
    everywhere = [Replicate()] * mesh.ndim
    on_all = {
        role: placed(t, mesh, [Shard(dim) for dim in dims] if role == "x" else everywhere)
        for role, t in leaves(**shapes).items()
    }
    with convext.backend("aten"):
        with Sent() as forward:
            y = ours(on_all)
        upstream = torch.zeros_like(y)
        with Sent() as backward:
            torch.autograd.grad(y, list(on_all.values()), upstream)
    return [(dict(s.bytes), dict(s.messages), s.collectives) for s in (forward, backward)]


def rows_held(size: int, ranks: int) -> list[set[int]]:
    """By torch.chunk."""
    chunks = [set(chunk.tolist()) for chunk in torch.arange(size).chunk(ranks)]
    return chunks + [set()] * (ranks - len(chunks))


def rows_read(name: str, dim: int, ranks: int) -> list[set[int]]:
    """The rows of `dim` that each rank's part of torch's result has a gradient by: no less can do."""
    shapes, _, theirs = PROBLEMS[name]
    plain = {role: torch.ones(shape, dtype=torch.float64, requires_grad=True) for role, shape in shapes.items()}
    y, found = theirs(plain), []
    for rows in rows_held(y.shape[dim], ranks):
        mask = torch.zeros_like(y)
        mask.index_fill_(dim, torch.tensor(sorted(rows), dtype=torch.long), 1)
        (gradient,) = torch.autograd.grad(y, plain["x"], mask, retain_graph=True)
        others = [d for d in range(gradient.dim()) if d != dim]
        found.append(set(gradient.sum(others).nonzero().flatten().tolist()))
    return found


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name.startswith("1-D") or name in ("2-D", "3-D")])
def test_bytes_are_the_least_possible(ranks, name):
    """Forward: each row that is read and held elsewhere, once. Backward: the same rows back. Nothing else."""
    shape = PROBLEMS[name][0]["x"]
    row = torch.Size(shape).numel() // shape[2] * 8
    held, read = rows_held(shape[2], 4), rows_read(name, 2, 4)
    for rank, (forward, backward) in enumerate(ranks(4, sent, name, (2,))):
        others = [other for other in range(4) if other != rank]
        least = {other: len(held[rank] & read[other]) * row for other in others if held[rank] & read[other]}
        back = {other: len(held[other] & read[rank]) * row for other in others if held[other] & read[rank]}
        assert forward == (least, dict.fromkeys(least, 1), [])
        assert backward == (back, dict.fromkeys(back, 1), [])


def test_two_axes_send_their_corners_once(ranks):
    """Ranks of 2 x 2 hold 5 or 4 rows and 4 or 3 columns: each receives a row, a column and a corner."""
    forwards = [forward for forward, _ in ranks(4, sent, "2-D", (2, 3))]
    assert all(sum(messages.values()) == 2 and not collectives for _, messages, collectives in forwards)
    pixels = (4 + 5 + 1) + (3 + 5 + 1) + (4 + 4 + 1) + (3 + 4 + 1)
    assert sum(sum(sizes.values()) for sizes, _, _ in forwards) == pixels * 2 * 4 * 8
