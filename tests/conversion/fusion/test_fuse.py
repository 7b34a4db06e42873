"""convext.fuse: what a model's convolutions take in, what they leave, and that nothing else changes."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convext
from convext.conversion.fusion import Fused
from convext.measuring import worth


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


# ------------------------------------------------------------------------------------------------------- what stays


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), norm(nn.BatchNorm2d, 3)

    def forward(self, x):
        y = self.conv(x)
        return F.relu(self.norm(y)) + y


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), norm(nn.BatchNorm2d, 3), norm(nn.BatchNorm2d, 3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x))))


class WrittenOver(nn.Module):
    """The sum is written over `x * 2`, and read from there: no sum of the convolution's own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        kept = x * 2
        kept += self.conv(x)
        return kept * 3 + kept


class Mutated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        kept = x * 2
        total = kept.add_(self.conv(x))
        return total + kept


class Broadcast(nn.Module):
    """A sum with one number a channel, and one with more rows than the convolution has."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return F.relu(self.conv(x) + x.mean((2, 3), keepdim=True)) + (self.other(x[:1]) + x)


class ScaledSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.add(self.conv(x), x, alpha=2)


class ReadsAWeight(ScaledSum):
    def forward(self, x):
        return self.conv(x) * self.conv.weight.sum()


class NormOfTwo(nn.Module):
    """What the norm gives is read by others than the convolution."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = norm(nn.BatchNorm2d, 3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.norm(x)
        return self.conv(y) * y


class DoubledNorm(nn.Module):
    """Padding comes after the norm's shift, so the norm before stays."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = norm(nn.BatchNorm2d, 3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.norm(x)) * 2


class Bounds(nn.Module):
    """One bound only, and a bound that is a tensor: no epilogue."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.clamp(self.conv(x), min=0.1) + torch.clamp(self.other(x), x.amin(), x.amax())


class Doubled(nn.Module):
    """A convolution added to itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.conv(x)
        return F.relu(y + y)


@pytest.mark.parametrize(
    "kind",
    [
        TwoReaders,
        Twice,
        WrittenOver,
        Mutated,
        Broadcast,
        ScaledSum,
        ReadsAWeight,
        NormOfTwo,
        DoubledNorm,
        Bounds,
        Doubled,
    ],
)
def test_what_must_stay_stays(kind):
    net, x = kind().eval(), torch.randn(2, 3, 4, 5)
    fused = convext.fuse(net, x)
    with torch.no_grad():
        found, allowed = error(net, fused, x)
        assert found <= allowed
        assert error(net, fused, torch.randn(3, 3, 2, 2))[0] <= 2 * allowed


def test_a_layer_that_is_called_twice_is_named():
    assert convext.report(convext.fuse(Twice().eval(), torch.randn(1, 3, 2, 2))).fusion.left_alone == {
        "conv": "it is called 2 times, and each call would want a weight of its own"
    }


def test_hooks_see_what_they_saw():
    net, x, seen = Block().eval(), torch.randn(1, 6, 4, 4), []
    net.depthwise.register_forward_hook(lambda *call: seen.append("depthwise"))
    net.last.register_forward_hook(lambda *call: seen.append("last"))
    net.act.register_forward_pre_hook(lambda *call: seen.append("act"))
    fused = convext.fuse(net, x)
    said = convext.report(fused).fusion
    assert said.left_alone == {"depthwise": "it has hooks, which see its result"}
    assert parts(fused)["project"] == "conv"
    seen.clear()
    fused(x)
    assert seen == ["depthwise", "act", "last"]


def test_a_weight_that_the_model_reads_itself_is_left_alone():
    said = convext.report(convext.fuse(ReadsAWeight().eval(), torch.randn(1, 3, 2, 2))).fusion
    assert said.left_alone == {"conv": "the model reads its weight or bias itself"}


def test_a_hook_on_an_activation():
    net, seen = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval(), []
    net[1].register_forward_hook(lambda *call: seen.append("relu"))
    fused = convext.fuse(net, torch.randn(1, 2, 3, 3))
    assert convext.report(fused).fusion.layers == ("0: conv",)
    seen.clear()
    fused(torch.randn(1, 2, 3, 3))
    assert seen == ["relu"]


def test_parametrized_layers_are_named():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.ReLU()).eval()
    (reason,) = convext.report(convext.fuse(net, torch.randn(1, 2, 3, 3))).fusion.left_alone.values()
    assert "remove_parametrizations first" in reason


# ------------------------------------------------------------------------------------------------------ what traces


class Counting(nn.Module):
    """Its forward depends on values, so it has no graph; its parts have."""

    def __init__(self):
        super().__init__()
        self.body, self.tail = nn.Sequential(Block(), Block()), nn.ModuleList([Block(), nn.ReLU()])

    def forward(self, x):
        y = self.body(x) if x.sum() > -1e9 else x
        for layer in self.tail:
            y = layer(y)
        return y


def test_parts_of_what_has_no_graph():
    net, x = Counting().eval(), torch.randn(1, 6, 4, 4)
    fused = convext.fuse(net, x)
    assert set(parts(fused)) == {
        f"{at}.{name}" for at in ("body.0", "body.1", "tail.0") for name in ("expand", "depthwise", "project")
    }
    said = convext.report(fused).fusion.left_alone
    assert list(said) == [""]
    assert said[""].startswith("torch.fx cannot trace Counting: ")
    with torch.no_grad():
        found, allowed = error(net, fused, x)
    assert found <= allowed


class Options(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x, mask=None):
        y = self.conv(x)
        return y if mask is None else y * mask


def test_arguments_that_were_left_out():
    net, x = Options().eval(), torch.randn(1, 3, 4, 4)
    fused = convext.fuse(net, x)
    torch.testing.assert_close(fused(x), net(x))
    with pytest.raises((AssertionError, RuntimeError)):
        fused(x, torch.ones(4))


class Upsampling(nn.Module):
    """A transposed convolution that is told its result's size, and one told its input by name."""

    def __init__(self):
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(3, 3, 2, stride=2), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(input=F.relu(self.up(x, [9, 9])))


def test_calls_with_more_than_an_input():
    net, x = Upsampling().eval(), torch.randn(1, 3, 4, 4)
    fused = convext.fuse(net, x)
    assert set(convext.report(fused).fusion.left_alone.values()) == {"it is called with more than its input"}
    torch.testing.assert_close(fused(x), net(x))


@pytest.mark.parametrize("nested", [False, True])
def test_arguments_that_were_given(nested):
    class Untraced(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Options()

        def forward(self, x, mask):
            return self.part(x, mask=mask) if x.sum() > -1e9 else x

    net, x, mask = (Untraced if nested else Options)().eval(), torch.randn(1, 3, 4, 4), torch.rand(4)
    fused = convext.fuse(net, (x, mask))
    assert len(parts(fused)) == 1
    torch.testing.assert_close(fused(x, mask), net(x, mask))


class Noisy(nn.Module):
    """A trace keeps the numbers that were drawn while it was made."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) + torch.randn(3, 4, 4)


def test_a_trace_that_lost_something_is_refused():
    with pytest.raises(RuntimeError, match=r"result 0 of the fused model differs by .* a trace does not show"):
        convext.fuse(Noisy().eval(), torch.randn(1, 3, 4, 4))


class Undefined(nn.Module):
    """A trace adds a NaN."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) * (1.0 if isinstance(x, torch.Tensor) else torch.nan)


def test_a_trace_that_gives_nan_is_refused():
    with pytest.raises(RuntimeError, match="differs by nan"):
        convext.fuse(Undefined().eval(), torch.randn(1, 3, 4, 4))


def test_of_several_arguments_and_results():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x, y):
            return {"sum": F.relu(self.a(x) + y), "other": self.b(y)}

    net, x, y = Pair().eval(), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    fused = convext.fuse(net, (x, y))
    torch.testing.assert_close(fused(x, y), net(x, y))
    assert parts(fused)["a"] == "conv + residual + relu"


# -------------------------------------------------------------------------------------------- what is done with it


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
        *((way, "each", way) for way in ("onednn", "conv", "stencil")),
        ("onednn", "conv", "conv"),
        *((way, "onednn", "onednn") for way in ("conv", "stencil")),
        ("conv", "each of torch's", "conv"),
        ("stencil", "each of torch's", "onednn"),
        ("conv", "onednn and stencil", "stencil"),
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
    ways = [("onednn", "conv"), ("onednn", "conv", "stencil"), ("onednn", "conv")]  # the second is depthwise
    assert [m.ways for m in layers] == ways
    assert [m.way for m in layers] == [chosen if chosen in m.ways else "onednn" for m in layers]
    assert told[:7] == [way for each in ways for way in each]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121"])
def test_torchvisions(name):
    models = pytest.importorskip("torchvision", reason="the networks are torchvision's").models
    net, x = getattr(models, name)(weights=None).eval(), torch.randn(1, 3, 64, 64)
    fused = convext.fuse(net, x)
    assert convext.report(fused).fusion.left_alone == {}
    with torch.no_grad():
        found, allowed = error(net, fused, x)
    assert found <= allowed
