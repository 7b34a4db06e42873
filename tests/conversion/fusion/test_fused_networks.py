"""convext.fuse on networks: small ones with the patterns of published ones, and those, where they are installed."""

import copy

import pytest
import torch
from fusible import parts
from published import NETWORKS
from torch import nn
from torch.utils import _pytree as pytree

import convext

TORCHVISION = [
    "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "resnext50_32x4d", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "densenet121", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50",
]  # fmt: skip
TIMM = [
    "mobilenetv2_050", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "resnext26ts", "regnetx_002",
    "regnety_002",
]  # fmt: skip


@torch.no_grad()
def assert_fused_well(net, x, formats=(torch.contiguous_format,)):
    """Results by the rule, by compilers and exporters in float32 too; the model untouched; lint says what it said."""
    before = copy.deepcopy(net.state_dict())
    fused = convext.fuse(net, x)
    assert convext.report(fused).fusion.left_alone == {}
    exact = pytree.tree_leaves(copy.deepcopy(net).double()(x.double()))
    torchs = [
        pytree.tree_leaves(copy.deepcopy(net).to(memory_format=f)(x.contiguous(memory_format=f))) for f in formats
    ]
    runs = [fused]
    if x.dtype is torch.float32:
        runs += [torch.compile(fused, fullgraph=True, backend="aot_eager"), torch.export.export(fused, (x,)).module()]
    for run in runs:
        assert_by_the_rule(pytree.tree_leaves(run(x)), torchs, exact)
    assert convext.lint(fused, x) == convext.lint(net, x)
    assert convext.revert(fused) is net
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    return fused


def assert_by_the_rule(results, torchs, exact):
    for y, e, *ts in zip(results, exact, *torchs, strict=True):
        torchs_error = max((t.double() - e).abs().max() for t in ts)
        allowed = 2 * torchs_error + 2 * torch.finfo(y.dtype).eps * e.abs().max()
        assert {t.dtype for t in ts} == {y.dtype}
        assert (y.double() - e).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_patterns(name, dtype):
    build, shape, taken = NETWORKS[name]
    fused = assert_fused_well(build().eval().to(dtype), torch.randn(2, *shape).to(dtype))
    assert {of: said.partition(",")[0] for of, said in parts(fused).items()} == taken


def test_lint_names_what_the_model_names():
    """Also a depthwise layer that lies in one layer with the pointwise one after it, in a model that is a part."""
    net = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=8, dilation=8, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
        nn.Sequential(nn.Conv2d(16, 2, 2, padding=1)),
    ).eval()
    x = torch.randn(1, 16, 8, 8)
    findings = convext.lint(nn.Sequential(net), x)
    assert [f.where for f in findings] == ["0.0", "0.3.0"]
    assert convext.lint(nn.Sequential(convext.fuse(net, x)), x) == findings


# Torch's own error differs by format: of deeplabv3_resnet50, which sums 18,432 products a result, it is 1.7 times as
# large where its convolutions are channels last, as those are that `fuse` gives to oneDNN.
FORMATS = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions(name):
    models = pytest.importorskip("torchvision", reason="the networks are torchvision's").models
    without = {"weights_backbone": None} if "deeplab" in name else {}
    assert_fused_well(models.get_model(name, weights=None, **without).eval(), torch.randn(2, 3, 64, 64), FORMATS)


@pytest.mark.parametrize("name", TIMM)
def test_timms(name):
    timm = pytest.importorskip("timm", reason="the networks are timm's")
    assert_fused_well(timm.create_model(name).eval(), torch.randn(2, 3, 64, 64), FORMATS)
