"""DTensors through layers' functions: every placement of their operands gives torch's result and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from layouts import assert_as_on_one_rank, leaves, mesh_of, placed
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn import functional as F

import convext

CF = convext.functional
PROBLEMS = {
    # name: (operands, ours, torch's)
    "dense": (
        {"x": (3, 4, 7, 6), "w": (6, 4, 3, 3), "bias": (6,)},
        lambda t: CF.conv2d(t["x"], t["w"], t["bias"], 2, 1),
        lambda t: F.conv2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
    "dense, transposed": (
        {"x": (3, 6, 4, 5), "w": (6, 4, 3, 3), "bias": (4,)},
        lambda t: CF.conv_transpose2d(t["x"], t["w"], t["bias"], 2, 1),
        lambda t: F.conv_transpose2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
    "depthwise": (
        {"x": (3, 4, 7), "w": (4, 1, 3), "bias": (4,)},
        lambda t: CF.conv1d(t["x"], t["w"], t["bias"], padding="causal", groups=4),
        lambda t: F.conv1d(F.pad(t["x"], (2, 0)), t["w"], t["bias"], groups=4),
    ),
    "depthwise, twice the channels": (
        {"x": (2, 4, 7), "w": (8, 1, 3), "bias": (8,)},
        lambda t: CF.conv1d(t["x"], t["w"], t["bias"], groups=4),
        lambda t: F.conv1d(t["x"], t["w"], t["bias"], groups=4),
    ),
    "groups that ranks would share": (
        {"x": (2, 6, 7), "w": (6, 2, 3), "bias": (6,)},
        lambda t: CF.conv1d(t["x"], t["w"], t["bias"], groups=3),
        lambda t: F.conv1d(t["x"], t["w"], t["bias"], groups=3),
    ),
    "groups, transposed": (
        {"x": (2, 8, 5), "w": (8, 3, 3), "bias": (12,)},
        lambda t: CF.conv_transpose1d(t["x"], t["w"], t["bias"], 2, groups=4),
        lambda t: F.conv_transpose1d(t["x"], t["w"], t["bias"], 2, groups=4),
    ),
    "frozen input, no bias": (
        {"x": (2, 4, 7), "w": (4, 4, 3)},
        lambda t: CF.conv1d(t["x"].detach(), t["w"], None, padding=1) + 0 * t["x"].sum(),
        lambda t: F.conv1d(t["x"].detach(), t["w"], None, padding=1) + 0 * t["x"].sum(),
    ),
    "causal": (
        {"x": (4, 4, 7), "w": (4, 3), "bias": (4,), "states": (4, 4, 2)},
        lambda t: convext.causal_conv1d.causal_conv1d_fn(
            t["x"], t["w"], t["bias"], initial_states=t["states"], activation="silu"
        ),
        lambda t: F.silu(F.conv1d(torch.cat([t["states"], t["x"]], 2), t["w"].unsqueeze(1), t["bias"], groups=4)),
    ),
}


def every_placement(shapes, ours, theirs, ranks: int) -> None:
    mesh = mesh_of(ranks)
    on_one = leaves(**shapes)
    for in_x, in_w in itertools.product([Replicate(), Shard(0), Shard(1), Shard(2)], [Replicate(), Shard(0), Shard(1)]):
        on_all = {name: placed(t, mesh, [{"x": in_x, "w": in_w}.get(name, Replicate())]) for name, t in on_one.items()}
        for backend in ("auto", "aten"):
            with convext.backend(backend):
                assert_as_on_one_rank(ours, theirs, on_one, on_all, (in_x, in_w, backend))


def by_name(name: str, ranks: int) -> None:
    every_placement(*PROBLEMS[name], ranks)


@pytest.mark.parametrize("name", PROBLEMS)
def test_placements(ranks, name):
    ranks(2, by_name, name, 2)
    ranks(3, by_name, name, 3)


def counted() -> dict[str, tuple]:
    """Placements and collectives of a forward, by case."""
    mesh, found = mesh_of(2), {}
    plain = leaves(x=(2, 4, 7), w=(4, 1, 3), v=(4, 4, 3), grouped=(8, 2, 3), bias=(4,))
    for case, (x_lies, w, w_lies, groups, bias) in {
        "batch": (0, "v", None, 1, True),
        "output channels": (None, "v", 0, 1, True),
        "input channels": (1, "v", 1, 1, True),
        "depthwise channels": (1, "w", 0, 4, True),
        "groups": (1, "grouped", 0, 2, False),
    }.items():
        x, weight, b = (
            placed(plain[name], mesh, [Replicate() if dim is None else Shard(dim)])
            for name, dim in (("x", x_lies), (w, w_lies), ("bias", None))
        )
        with CommDebugMode() as mode:
            y = CF.conv1d(x, weight, b if bias else None, padding=1, groups=groups)
        forward = mode.get_total_counts()
        with CommDebugMode() as mode:
            gradients = torch.autograd.grad(y, [x, weight], torch.zeros_like(y.redistribute(mesh, y.placements)))
        found[case] = str(y.placements[0]), forward, mode.get_total_counts(), *(str(g.placements[0]) for g in gradients)
    return found


def test_nothing_moves_where_nothing_has_to(ranks):
    """And gradients of weights are partial sums over images, the weight's own shards over channels."""
    for found in ranks(2, counted):
        assert found == {
            "batch": ("S(0)", 0, 0, "S(0)", "P(sum)"),
            "output channels": ("S(1)", 0, 0, "P(sum)", "S(0)"),
            "input channels": ("P(sum)", 0, 0, "S(1)", "S(1)"),
            "depthwise channels": ("S(1)", 0, 0, "S(1)", "S(0)"),
            "groups": ("S(1)", 0, 0, "S(1)", "S(0)"),
        }


# ---------------------------------------------------------------------------------- the operators themselves

OPERATORS = {
    "fprop": (
        {"x": (4, 4, 7, 6), "w": (6, 4, 3, 3), "bias": (6,)},
        lambda t: torch.ops.convext.fprop(t["x"], t["w"], t["bias"], [4, 3], [2, 2], [1, 1], [1, 1], 1, "aten"),
        lambda t: F.conv2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
    "dgrad": (
        {"x": (4, 6, 4, 5), "w": (6, 4, 3, 3), "bias": (4,)},
        lambda t: torch.ops.convext.dgrad(t["x"], t["w"], t["bias"], [7, 9], [2, 2], [1, 1], [1, 1], 1, "aten"),
        lambda t: F.conv_transpose2d(t["x"], t["w"], t["bias"], 2, 1),
    ),
}


def operator_by_name(name: str) -> None:
    shapes, ours, theirs = OPERATORS[name]
    mesh, on_one = mesh_of(2), leaves(**shapes)
    for in_x, in_w in itertools.product([Replicate(), Shard(0), Shard(1)], repeat=2):
        on_all = {name: placed(t, mesh, [{"x": in_x, "w": in_w}.get(name, Replicate())]) for name, t in on_one.items()}
        assert_as_on_one_rank(ours, theirs, on_one, on_all, (in_x, in_w))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_have_rules(ranks, name):
    ranks(2, operator_by_name, name)
