"""What is told of a sharded layer is what its ranks send."""

from __future__ import annotations

import re

import pytest
import torch
from layouts import mesh_of
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from watching import Sent

import convext
from convext.distributed import BatchParallel, ChannelParallel, SpatialParallel, explain, parallelize

LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 9, 10)),
    "strided": (lambda: nn.Conv2d(3, 3, (5, 3), 2, groups=3), (2, 3, 13, 12)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 8, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1), (2, 3, 7, 9)),
    "pool": (lambda: nn.MaxPool2d(3, 2, 1), (2, 3, 9, 10)),
}
PLANS = {
    (4,): SpatialParallel(0),
    (2, 2): [SpatialParallel(1), SpatialParallel(0)],
    (2, 1, 2): [BatchParallel(), ChannelParallel(), SpatialParallel(-1)],
}


def sent(name: str) -> dict[tuple[int, ...], tuple[int, int]]:
    """Bytes and messages that this rank sends in a forward, by mesh."""
    make, shape = LAYERS[name]
    found = {}
    for mesh, plan in PLANS.items():
        model = parallelize(make(), mesh_of(*mesh), plan)
        with Sent() as seen, torch.no_grad():
            model(torch.randn(shape))
        found[mesh] = sum(seen.bytes.values()), sum(seen.messages.values())
    return found


def numbers(pattern: str, text: str) -> list[tuple[int, ...]]:
    return [tuple(int(n.replace(",", "")) for n in found) for found in re.findall(pattern, text)]


@pytest.mark.parametrize("name", LAYERS)
def test_it_tells_what_is_sent(ranks, name):
    make, shape = LAYERS[name]
    measured = ranks(4, sent, name)
    for mesh, plan in PLANS.items():
        told = explain(make(), shape, mesh, plan)
        ((total, least),) = numbers(r"halos: ([\d,]+) bytes in all, least possible ([\d,]+)", told)
        assert total == sum(found[mesh][0] for found in measured)
        # On two axes, rows that are sent have their last column with them, which a stride of 2 over 12 leaves unread.
        assert least == total if (name, mesh) != ("strided", (2, 2)) else least < total
        more = [1 + int(n or 0) for n in re.findall(r"rank [\dx]+(?: and (\d+) more)?:", told)]
        assert sum(more) == torch.Size(mesh).numel()
        messages = numbers(r"in (\d+) message", told)
        assert sum(n * m for n, (m,) in zip(more, messages, strict=True)) == sum(found[mesh][1] for found in measured)


def of_a_tensor() -> str:
    x = DTensor.from_local(torch.randn(1, 8, 16, 5), mesh_of(2), [Shard(2)])
    return convext.explain(convext.Conv2d(8, 8, 3, padding=1, groups=8), x)


def test_explain_of_a_sharded_tensor(ranks):
    told, _ = ranks(2, of_a_tensor)
    assert "rank 0: reads 1x8x17x5, pad 1x1, computes 16x5; receives 160 bytes (at least 160) in 1 message" in told
    assert "gradients of 320 bytes are summed over 2 ranks" in told
    assert "forward (fprop) of a depthwise 2-D convolution: input 1x8x17x5, weight 8x1x3x3 -> output 1x8x16x5" in told
    assert "weight gradient (wgrad) of a depthwise" in told


def test_a_dense_layer_gathers_channels():
    told = explain(nn.Conv1d(8, 8, 3), (2, 8, 10), (4,), ChannelParallel())
    assert "channels: each rank gathers 480 bytes" in told
    assert "gathers" not in explain(nn.Conv1d(8, 8, 3, groups=8), (2, 8, 10), (4,), ChannelParallel())


def test_it_refuses_what_has_no_plan():
    with pytest.raises(ValueError, match="a plan for each of the mesh's 2 axes"):
        explain(nn.Conv2d(1, 1, 3), (1, 1, 8, 8), (2, 2), SpatialParallel(0))
