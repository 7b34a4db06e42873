"""Eager quantization takes convext's layers as it takes torch's; graph mode names the remedy."""

import copy

import pytest
import torch
from torch import nn

import convext
from convext import layers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*[qQ]uant", "ignore:.*reduce_range")
quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no eager quantization")


class Quantizable(nn.Module):
    def __init__(self, *rest, conv=None):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.body = nn.Sequential(conv or nn.Conv2d(3, 4, 3), *rest)

    def forward(self, x):
        return self.dequant(self.body(self.quant(x)))


RUNS = [[nn.ReLU], [lambda: nn.BatchNorm2d(4)], [lambda: nn.BatchNorm2d(4), nn.ReLU]]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("rest", RUNS, ids=["relu", "bn", "bn relu"])
def test_fuse_modules(rest, train):
    torchs = Quantizable(*(make() for make in rest)).train(train)
    ours = convext.convert(copy.deepcopy(torchs))
    names = [[f"body.{i}" for i in range(1 + len(rest))]]
    fuser = quantization.fuse_modules_qat if train else quantization.fuse_modules
    fused, expected = fuser(ours, names), fuser(torchs, names)
    assert [type(m).__name__ for m in fused.modules()] == [type(m).__name__ for m in expected.modules()]
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fused(x), expected(x))
    assert any(isinstance(m, convext.Conv2d) for m in fused.modules())
    assert type(ours.body[0]) is convext.Conv2d


@pytest.fixture
def engine():
    engines = [name for name in torch.backends.quantized.supported_engines if name in ("x86", "fbgemm", "qnnpack")]
    if not engines:
        pytest.skip("this torch has no engine for quantized convolutions")
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, engines[0]
    yield engines[0]
    torch.backends.quantized.engine = before


def quantized(net, engine, x):
    net = net.eval()
    net.qconfig = quantization.get_default_qconfig(engine)
    prepared = quantization.prepare(net)
    prepared(x)
    return quantization.convert(prepared)


def test_static_quantization(engine):
    torchs, x = Quantizable(nn.ReLU()), torch.randn(2, 3, 8, 8)
    ours = convext.convert(copy.deepcopy(torchs))
    torch.testing.assert_close(quantized(ours, engine, x)(x), quantized(torchs, engine, x)(x))
    assert type(ours.body[0]) is convext.Conv2d


def test_quantization_aware_training(engine):
    torchs = Quantizable(nn.ReLU()).train()
    ours = convext.convert(copy.deepcopy(torchs))
    for net in (ours, torchs):
        net.qconfig = quantization.get_default_qat_qconfig(engine)
    prepared, expected = quantization.prepare_qat(ours), quantization.prepare_qat(torchs)
    assert [type(m) for m in prepared.modules()] == [type(m) for m in expected.modules()]


@pytest.mark.parametrize("conv", [convext.Conv2d(3, 4, 3, padding=((1, 2), 0)), layers.TrueConv2d(3, 4, 3)])
def test_layers_that_torch_does_not_have_are_refused_or_stay_in_floating_point(conv, engine):
    net = Quantizable(conv=conv)
    net.qconfig = quantization.get_default_qconfig(engine)
    with pytest.raises(RuntimeError, match="set its qconfig to None, and it stays in floating point"):
        quantization.prepare(net.eval())
    net = Quantizable(nn.Conv2d(4, 4, 1), conv=copy.deepcopy(conv))
    net.body[0].qconfig = None
    net.qconfig = quantization.get_default_qconfig(engine)
    prepared = quantization.prepare(net.eval())
    assert type(prepared.body[0]) is type(conv)
    assert prepared.body[0].qconfig is None
    del prepared.body[0].qconfig
    assert not hasattr(prepared.body[0], "qconfig")


def test_graph_mode_quantization_names_the_remedy():
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx", reason="no graph mode in this torch")
    net = convext.convert(nn.Sequential(nn.Conv2d(3, 4, 3))).eval()
    mapping = quantization.get_default_qconfig_mapping()
    with pytest.raises(RuntimeError, match=r"call convext\.revert\(model\) first"):
        quantize_fx.prepare_fx(net, mapping, torch.randn(1, 3, 8, 8))
    quantize_fx.prepare_fx(convext.revert(net), mapping, torch.randn(1, 3, 8, 8))


class OfYours(nn.Conv2d):
    """A subclass, which torch's quantization leaves in floating point without a word."""


@pytest.fixture
def quantize_fx():
    return pytest.importorskip("torch.ao.quantization.quantize_fx", reason="no graph mode in this torch")


@pytest.mark.parametrize("kind", [nn.Conv2d, OfYours])
@pytest.mark.parametrize("prepare", ["prepare_fx", "prepare_qat_fx"])
def test_graph_mode_never_quantizes_nothing_without_a_word(prepare, kind, quantize_fx):
    net = convext.convert(nn.Sequential(kind(3, 4, 3), nn.ReLU())).train(prepare == "prepare_qat_fx")
    mapping, x = quantization.get_default_qat_qconfig_mapping(), torch.randn(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=r"call convext\.revert\(model\) first"):
        getattr(quantize_fx, prepare)(net, mapping, x)


@pytest.mark.parametrize("training", [False, True])
def test_what_is_prepared_for_quantization_stays_torchs(training, engine, quantize_fx):
    """Converted after `prepare`, a layer would not be found by `convert_fx`, and stay in floating point."""
    mapping, x = quantization.get_default_qat_qconfig_mapping(engine), torch.randn(1, 3, 8, 8)
    prepare = quantize_fx.prepare_qat_fx if training else quantize_fx.prepare_fx
    prepared = prepare(nn.Sequential(nn.Conv2d(3, 4, 3)).train(training), mapping, x)
    prepared(x)
    assert "is prepared for quantization" in convext.report(convext.convert(prepared)).left_alone["0"]
    done = quantize_fx.convert_fx(prepared.eval())
    assert "quantized" in type(done.get_submodule("0")).__module__


def test_a_converted_subclass_is_to_eager_quantization_what_it_was(engine):
    """torch quantizes no subclass, and says nothing: so it is after convert, where its layers are torch's again."""
    net = convext.convert(Quantizable(conv=OfYours(3, 4, 3)))
    prepared = quantization.prepare(net.eval(), inplace=True)
    assert prepared is net
    assert type(convext.convert(Quantizable(conv=OfYours(3, 4, 3))).body[0]) is not OfYours
    net.body[0].qconfig = quantization.get_default_qconfig(engine)
    assert type(net.body[0]) is OfYours
