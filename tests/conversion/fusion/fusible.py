"""A block that convext.fuse takes whole, and what its tests ask of a result."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

import convext


def norm(kind, channels, **settings):
    """A norm as after training: no statistic or parameter is 0 or 1."""
    layer = kind(channels, **settings)
    with torch.no_grad():
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        if layer.affine:
            layer.weight.uniform_(0.5, 2)
            layer.bias.normal_()
    return layer


class Block(nn.Module):
    """norm -> conv, conv -> norm -> act, and a sum with what came in."""

    def __init__(self):
        super().__init__()
        self.before = norm(nn.BatchNorm2d, 6)
        self.expand = nn.Conv2d(6, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = norm(nn.BatchNorm2d, 12)
        self.act = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(12, 6, 1, bias=False)
        self.last = norm(nn.BatchNorm2d, 6)

    def forward(self, x):
        y = F.silu(self.expand(self.before(x)))
        y = self.act(self.norm(self.depthwise(y)))
        return F.relu(self.last(self.project(y)) + x)


def error(model, fused, x):
    """Distances of the fused model and of torch's own from float64, and what the rule allows the first."""
    exact = copy.deepcopy(model).double()(x.double())
    ours, torchs = (m(x).double().sub(exact).abs().max().item() for m in (fused, model))
    return ours, 2 * torchs + 2 * torch.finfo(x.dtype).eps * exact.abs().max().item()


def parts(fused):
    return {line.split(": ")[0]: line.split(": ")[1] for line in convext.report(fused).fusion.layers}


def exact(conv, x, residual, epilogue):
    y = copy.deepcopy(conv).double()(x.double())
    return epilogue(y if residual is None else y + residual.double())


def assert_by_the_rule(result, torchs, oracle):
    floor = 2 * torch.finfo(torchs.dtype).eps * oracle.abs().max()
    assert result.dtype == torchs.dtype
    assert (result - oracle).abs().max() <= 2 * (torchs - oracle).abs().max() + floor
