"""convext.fuse and what has no graph, or one that a trace would get wrong."""

import pytest
import torch
import torch.nn.functional as F
from fusible import Block, error, parts
from torch import nn

import convext


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
