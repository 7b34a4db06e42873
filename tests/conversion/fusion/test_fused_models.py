"""What is done with a fused model: copies, new weights, compilers, gradients, timing."""

import copy
import io
import pickle

import pytest
import torch
from fusible import Block, parts
from torch import nn

import convext
from convext.conversion.fusion import Fused
from convext.measuring import worth


@pytest.fixture
def fused_block():
    return convext.fuse(nn.Sequential(Block()).eval(), torch.randn(2, 6, 5, 5))


def test_copies_and_pickles(fused_block):
    x = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        expected = fused_block(x)
        file = io.BytesIO()
        torch.save(fused_block, file)
        file.seek(0)
        for twin in (
            copy.deepcopy(fused_block),
            pickle.loads(pickle.dumps(fused_block)),
            torch.load(file, weights_only=False),
        ):
            torch.testing.assert_close(twin(x), expected)
            assert parts(twin) == parts(fused_block)


def test_new_weights_are_seen(fused_block):
    x, other = torch.randn(2, 6, 5, 5), convext.fuse(nn.Sequential(Block()).eval(), torch.randn(2, 6, 5, 5))
    with torch.no_grad():
        fused_block(x)
        exact = copy.deepcopy(other).double()(x.double())
        fused_block.load_state_dict(other.state_dict())
        torch.testing.assert_close(fused_block(x), exact.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["compile", "export"])
def test_compilers_see_a_graph(fused_block, how):
    x = torch.randn(2, 6, 5, 5)
    with torch.no_grad():
        if how == "compile":
            run = torch.compile(fused_block, fullgraph=True, backend="aot_eager")
        else:
            run = torch.export.export(fused_block, (x,)).module()
        torch.testing.assert_close(run(x), fused_block(x), rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_input(fused_block):
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    model = convext.revert(fused_block)
    (ours,) = torch.autograd.grad(fused_block(x).square().sum(), x)
    (exact,) = torch.autograd.grad(copy.deepcopy(model).double()(x.double()).square().sum(), x)
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("of_a_layer", "of_the_model", "chosen"),
    [
        *((way, "each", way) for way in ("onednn", "conv", "stencil", "pointwise")),
        ("onednn", "conv", "conv"),
        *((way, "onednn", "onednn") for way in ("conv", "stencil", "pointwise")),
        ("conv", "each of torch's", "conv"),
        ("stencil", "each of torch's", "onednn"),
        ("pointwise", "each of torch's", "onednn"),
        ("conv", "onednn and ours", "ours"),
    ],
)
def test_layers_go_the_way_that_was_faster(of_a_layer, of_the_model, chosen, monkeypatch):
    """Not by time, which nobody can foresee: by a clock that charges what a test says."""
    told = []

    def charged(calls, clock, plan, begin=told.append):
        for name in calls:
            begin(name)
            calls[name]()
        fast = of_the_model if "each" in calls else of_a_layer
        return {name: [1.0 if name == fast else 2.0] * 9 for name in calls}

    monkeypatch.setattr(worth, "interleaved", charged)
    fused = convext.fuse(Block().eval(), torch.randn(1, 6, 4, 4))
    layers = [m for m in fused.modules() if isinstance(m, Fused)]
    ours = ["pointwise", "stencil", "pointwise"]
    ways = [("onednn", "conv", way) for way in ours]
    assert [m.ways for m in layers] == ways
    expected = ours if chosen == "ours" else [chosen if chosen in each else "onednn" for each in ways]
    assert [m.way for m in layers] == expected
    assert told[:9] == [way for each in ways for way in each]
