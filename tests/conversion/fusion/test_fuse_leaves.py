"""What convext.fuse leaves alone, and names."""

import pytest
import torch
import torch.nn.functional as F
from fusible import Block, error, norm, parts
from torch import nn

import convext


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


# ------------------------------------------------------------------------------------ what does nothing to an inference


def stochastic_depth(input, p, mode, training=True):
    """As torchvision's, which torch.fx keeps as it is."""
    return F.dropout(input, p, training)


stochastic_depth.__module__ = "torchvision.ops.stochastic_depth"
torch.fx.wrap("stochastic_depth")

DROPS = {
    "dropout": lambda y, training: F.dropout(y, 0.5, training),
    "dropout2d": lambda y, training: F.dropout2d(y, training=training),
    "alpha_dropout": lambda y, training: F.alpha_dropout(y, 0.5, training),
    "stochastic_depth": lambda y, training: stochastic_depth(y, 0.5, "row", training),
}


class Dropping(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, 1), drop

    def forward(self, x):
        return F.relu(self.drop(self.conv(x), self.training) + x)


@pytest.mark.parametrize("name", DROPS)
def test_what_drops_in_training_stands_in_nobodys_way(name):
    net, x = Dropping(DROPS[name]).eval(), torch.randn(2, 3, 4, 5)
    fused = convext.fuse(net, x)
    assert parts(fused) == {"conv": "conv + residual + relu"}
    with torch.no_grad():
        found, allowed = error(net, fused, x)
    assert found <= allowed


def test_what_drops_always_stays():
    """Of nothing, so that a trace agrees."""
    net = Dropping(lambda y, training: F.dropout(y, p=0.0)).eval()
    assert parts(convext.fuse(net, torch.randn(2, 3, 4, 5))) == {"conv": "conv"}


class ByName(Dropping):
    def forward(self, x):
        return self.drop(input=self.conv(x))


def test_a_layer_that_does_nothing_and_is_told_its_input_by_name():
    net, x = ByName(nn.Dropout()).eval(), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(convext.fuse(net, x)(x), net(x))
