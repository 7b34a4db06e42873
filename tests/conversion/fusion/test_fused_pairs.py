"""A depthwise layer and the pointwise one after it in one pass: what is taken, when it runs, and who chooses."""

import copy
import importlib
import pickle

import pytest
import torch
from fusible import error, norm
from torch import nn

import convext
from convext.conversion.fusion import Separable
from convext.conversion.fusion.separable import APART, TOGETHER
from convext.providers.cpu import library, separable

FUSE = importlib.import_module("convext.conversion.fusion.fuse")
pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))


class Inverted(nn.Module):
    """A block of MobileNetV2."""

    def __init__(self, channels=16, wide=40, depthwise=None, between=None, project=None):
        super().__init__()
        self.expand = nn.Conv2d(channels, wide, 1)
        self.depthwise = depthwise or nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.norm = norm(nn.BatchNorm2d, wide)
        self.act = between or nn.ReLU6()
        self.project = project or nn.Conv2d(wide, channels, 1, bias=False)
        self.last = norm(nn.BatchNorm2d, channels)

    def forward(self, x):
        return self.last(self.project(self.act(self.norm(self.depthwise(self.expand(x)))))) + x


def image(channels=16):
    return torch.randn(2, channels, 9, 7).contiguous(memory_format=torch.channels_last)


def pairs(model):
    return [m for m in model.modules() if isinstance(m, Separable)]


@torch.no_grad()
def of_torchs_layers(model, x, residual):
    """What the depthwise layer and the pointwise one give with their norms, in float64."""
    m = copy.deepcopy(model).double()
    return (m.last(m.project(m.act(m.norm(m.depthwise(x.double()))))) + residual).to(x.dtype)


@pytest.fixture
def ran(monkeypatch):
    """Every problem that the kernel computed."""
    seen, run = [], separable.run_packed
    monkeypatch.setattr(
        separable, "run_packed", lambda problem, *tensors: seen.append(problem) or run(problem, *tensors)
    )
    return seen


@pytest.fixture
def always(monkeypatch):
    """Where layers are timed, one pass is faster."""
    timed = FUSE.faster

    def faster(model, arguments, layers, ways):
        if all(isinstance(layer, Separable) for layer in layers.values()):
            return dict.fromkeys(layers, TOGETHER)
        return timed(model, arguments, layers, ways)

    monkeypatch.setattr(FUSE, "faster", faster)
    monkeypatch.setattr(FUSE, "fastest", lambda sampled, plans, follow: next(iter(plans)))


def test_a_block(always, ran):
    """Its sum as well. Norms and the activation are taken in first."""
    model, x = nn.Sequential(Inverted()).eval(), image()
    fused = convext.fuse(model, x)
    (pair,) = pairs(fused)
    assert pair.way == TOGETHER
    assert convext.report(fused).fusion.layers == (
        "0.expand: conv", "0.depthwise: conv + norm + clamp(0.0, 6.0)",
        "0.project: conv + norm + residual, in one pass with 0.depthwise",
    )  # fmt: skip
    ran.clear()
    with torch.no_grad():
        for each in (fused, copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            found, allowed = error(model, each, x)
            assert found <= allowed
    assert [p.adds for p in ran] == [True] * 3
    assert convext.revert(fused) is model


def test_a_pointwise_layer_says_in_words_that_it_pads_nothing(always, ran):
    model, x = Inverted(project=nn.Conv2d(40, 16, 1, padding="valid")).eval(), image()
    fused = convext.fuse(model, x)
    ran.clear()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(ran) == 1


def test_who_is_faster_is_timed(monkeypatch):
    """Layer by layer, then the whole model: where that is slower, nothing is in one pass."""
    model, x = Inverted().eval(), image()
    monkeypatch.setattr(
        FUSE, "faster", lambda model, arguments, layers, ways: {n: [*ways(m)][-1] for n, m in layers.items()}
    )
    for plan, way in (("each", TOGETHER), (APART, APART)):
        told = []

        def fastest(sampled, plans, follow, plan=plan, told=told):
            told.append(set(plans))
            return plan if APART in plans else next(iter(plans))

        monkeypatch.setattr(FUSE, "fastest", fastest)
        fused = convext.fuse(model, x)
        assert [pair.way for pair in pairs(fused)] == [way]
        assert told[-1] == {"each", APART}
        assert ("in one pass" in str(convext.report(fused))) == (way == TOGETHER)


def test_when_it_runs(always, ran):
    model = Inverted().eval()
    fused = convext.fuse(model, image())
    (pair,) = pairs(fused)
    x = image(40)
    residual = torch.randn(2, 16, 9, 7)
    expected = of_torchs_layers(model, x, residual)

    def runs(x, residual, gradient=False):
        ran.clear()
        with torch.set_grad_enabled(gradient):
            y = pair(x, residual)
        torch.testing.assert_close(y, expected.expand_as(y).to(y.dtype), rtol=1e-4, atol=1e-4)
        return bool(ran)

    assert runs(x, residual)
    assert runs(x, residual, gradient=True)  # of which nothing is trained
    assert not runs(x.clone().requires_grad_(), residual, gradient=True)
    assert not runs(x.contiguous(), residual)
    with convext.backend("aten"):
        assert not runs(x, residual)
    pair.way = APART
    assert not runs(x, residual)
    pair.way = TOGETHER
    residual = torch.randn(16, 1, 1)  # broadcasts
    expected = of_torchs_layers(model, x, residual)
    assert not runs(x, residual)
    with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
        pair(image(39), residual)


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_hook_sees_its_layer(always, ran, name):
    x, seen = image(), []
    fused = convext.fuse(Inverted().eval(), x)
    hook = getattr(pairs(fused)[0], name).register_forward_hook(lambda *_: seen.append(1))
    ran.clear()
    with torch.no_grad():
        y = fused(x)
        assert (len(seen), len(ran)) == (1, 0)
        hook.remove()
        torch.testing.assert_close(fused(x), y, rtol=1e-4, atol=1e-4)
    assert (len(seen), len(ran)) == (1, 1)


def test_weights_that_change_are_laid_out_anew(always):
    fused, other = (convext.fuse(Inverted().eval(), image()) for _ in range(2))
    x = image()
    with torch.no_grad():
        fused(x)
        for name in ("first", "second"):
            getattr(pairs(fused)[0], name).load_state_dict(getattr(pairs(other)[0], name).state_dict())
            exact = copy.deepcopy(fused).double()(x.double())
            torch.testing.assert_close(fused(x), exact.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {"wide": 12},
        {"depthwise": nn.Conv2d(40, 40, 3, padding=1, groups=20)},
        {"between": nn.Softplus()},
        {"project": nn.Conv2d(40, 16, 1, groups=2)},
        {"project": nn.Conv2d(40, 16, 3, padding=1)},
        {"project": nn.ConvTranspose2d(40, 16, 1)},
    ],
    ids=str,
)
def test_what_stays_two_layers(always, changed):
    model, x = Inverted(**changed).eval(), image(changed.get("channels", 16))
    fused = convext.fuse(model, x)
    if changed == {"wide": 12}:
        assert len(pairs(fused)) == (separable.lanes() <= 12)
    else:
        assert not pairs(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


class WrittenBetween(Inverted):
    """What the depthwise layer reads is changed before the pointwise one runs."""

    def forward(self, x):
        t = self.act(self.norm(self.depthwise(x)))
        x.mul_(2)
        return self.last(self.project(t)) + x


def test_what_stands_between_stays_there(always):
    model, x = WrittenBetween(wide=16).eval(), image()
    fused = convext.fuse(model, x)
    assert not pairs(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-4)


def test_explain(always):
    fused = convext.fuse(Inverted().eval(), image())
    said = convext.explain(pairs(fused)[0], image(40))
    assert "together" in said
    assert "\n  cpu.separable: " in said
    assert said.count("epilogue: ") == 2
