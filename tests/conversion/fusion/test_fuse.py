"""convext.fuse: what a model's convolutions take in, and that nothing else changes."""

import copy

import pytest
import torch
from fusible import Block, error, parts
from torch import nn

import convext


def test_a_block_takes_in_all_that_stands_beside():
    net, x = nn.Sequential(Block(), Block()).eval(), torch.randn(2, 6, 9, 7)
    fused = convext.fuse(net, x)
    one = {
        "expand": "norm before + conv + silu",
        "depthwise": "conv + norm + relu",
        "project": "conv + norm + residual + relu",
    }
    assert parts(fused) == {f"{i}.{name}": said for i in (0, 1) for name, said in one.items()}
    assert not any(isinstance(m, nn.BatchNorm2d | nn.ReLU) for m in fused.modules())
    with torch.no_grad():
        found, allowed = error(net, fused, x)
    assert found <= allowed
    assert convext.report(fused).fusion.left_alone == {}
    assert not any(m.training for m in fused.modules())
    assert str(convext.report(fused)).startswith("6 layers fused, 0 left alone\n  0.expand: norm before")


def test_in_float64_nothing_but_rounding_differs():
    net, x = Block().eval().double(), torch.randn(2, 6, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(convext.fuse(net, x)(x), net(x), rtol=1e-12, atol=1e-12)


def test_the_model_is_not_modified_and_comes_back():
    net, x = nn.Sequential(Block()).eval(), torch.randn(2, 6, 5, 5)
    before, kinds = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    drawn = torch.random.get_rng_state()
    fused = convext.fuse(net, x)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert convext.revert(fused) is net
    assert [type(m) for m in net.modules()] == kinds
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
    with pytest.raises(ValueError, match="fused already"):
        convext.fuse(fused, x)


def test_what_changed_nothing_shares_its_tensors():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2)).eval()
    fused = convext.fuse(net, torch.randn(1, 2, 2, 2))
    assert fused.get_submodule("2").weight is net[2].weight
    assert fused.get_submodule("0").conv.weight.data_ptr() == net[0].weight.data_ptr()


def test_mistakes_are_named():
    x = torch.randn(1, 6, 5, 5)
    with pytest.raises(TypeError, match=r"convext\.fuse takes a torch\.nn\.Module, but got str: 'x'"):
        convext.fuse("x", x)
    with pytest.raises(TypeError, match=r"as torch\.randn\(1, 6, 5, 5\), but got \(1, 6, 5, 5\)"):
        convext.fuse(nn.Conv2d(6, 6, 1).eval(), (1, 6, 5, 5))
    for device, t in (("meta", x), ("cpu", x.to("meta"))):
        with pytest.raises(ValueError, match='on "meta", and layers are timed'):
            convext.fuse(nn.Conv2d(6, 6, 1, device=device).eval(), t)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        convext.fuse(Block(), x)
