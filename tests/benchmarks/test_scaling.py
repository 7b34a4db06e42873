"""Weak scaling on paper: the bytes of all ranks' messages are what a closed form says, on 8 to 512 ranks."""

from __future__ import annotations

import pytest
from torch import nn

from convext.benchmarks.scaling import Links, Network, meshes, networks, simulate

LINKS = Links(nvlink=100.0, infiniband=10.0, latency=1.0)


def one(layer: nn.Module, rows: int, rank: int) -> Network:
    return Network("one layer", ((layer, rows, 1),), rank)


@pytest.mark.parametrize("ranks", [64, 512])
def test_slabs_receive_two_halos(ranks):
    """A halo of 2 rows from each side, 16 pixels wide, of 8 channels and 2 bytes, forward and backward."""
    layer = nn.Conv2d(8, 8, 5, padding=2, device="meta")
    step = simulate(one(layer, 16, 2), (ranks,), LINKS)
    halo = 2 * 16 * 8 * 2
    assert (step.bytes, step.messages) == (2 * 2 * halo, 4)
    # The slowest has one neighbour in its own node and one in another; the two links work side by side.
    assert step.exchanging == pytest.approx(2 * (1.0 + max(halo / 100, halo / 10)))


@pytest.mark.parametrize("side", [2, 4, 8])
def test_cubes_receive_what_is_around_them(side):
    """With edges and corners: (10 + 2)^3 - 10^3 voxels, or 11^3 - 10^3 where there is one neighbour an axis."""
    layer = nn.Conv3d(4, 4, 3, padding=1, device="meta")
    step = simulate(one(layer, 10, 3), (side,) * 3, LINKS)
    around = (11 if side == 2 else 12) ** 3 - 1000
    assert step.bytes == 2 * around * 4 * 2
    assert step.messages == 2 * 3 * (1 if side == 2 else 2)


def test_a_node_is_quicker_than_two():
    layer = nn.Conv2d(8, 8, 3, padding=1, device="meta")
    within, between = (simulate(one(layer, 16, 2), (n,), LINKS) for n in (8, 16))
    assert within.bytes == between.bytes
    assert within.exchanging < between.exchanging
    assert within.computing == between.computing
    assert 0 < between.efficiency < within.efficiency < 1


def test_networks_are_simulated():
    for network in networks():
        for mesh in meshes(8, network.rank):
            assert 0.3 < simulate(network, mesh, Links()).efficiency < 1


def test_what_is_hidden_is_no_rest():
    """Of 1024 x 1024 pixels a GPU: the messages are hidden both ways, and windows are not copied. Edges are left."""
    layer = nn.Conv2d(96, 96, 7, padding=3, groups=96, device="meta")
    step = simulate(one(layer, 1024, 2), (8,), Links())
    received = 2 * 3 * 1024 * 96 * 2
    messages, copy = 20e-6 + received / 450e9, 2 * 1030 * 1024 * 96 * 2 / 3e12
    assert step.exchanging == pytest.approx(2 * messages)
    assert step.waiting == pytest.approx(3 * copy)  # one hides the messages there, two hide those back
    edge = 3 * 5e-6 + max((9 + 3) * 1024 * 96 * 2 / 3e12, 2 * 49 * 3 * 1024 * 96 / 67e12)
    assert step.rest == pytest.approx(3 * 2 * edge, rel=1e-3)  # the messages are hidden by products
    assert step.efficiency == pytest.approx(step.computing / (step.computing + step.rest))
