"""convext.everywhere: code that calls torch's convolutions itself gets convext's, and nothing else changes."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import convext
from convext.functional import calls
from convext.operators import autograd

CALLS = {
    "conv1d": ((2, 4, 9), (6, 2, 3), {"groups": 2, "padding": 1}),
    "conv2d": ((2, 4, 9, 8), (4, 1, 3, 3), {"groups": 4, "stride": 2, "dilation": (2, 1)}),
    "conv3d": ((2, 2, 5, 5, 5), (3, 2, 2, 2, 2), {"padding": "same"}),
    "conv_transpose1d": ((2, 4, 9), (4, 2, 3), {"stride": 2, "output_padding": 1}),
    "conv_transpose2d": ((2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
    "conv_transpose3d": ((2, 2, 4, 4, 4), (2, 3, 2, 2, 2), {"dilation": 2}),
}


@pytest.fixture
def ours(monkeypatch):
    """The problems that our operators compute past the dispatcher, and how many function modes look on."""
    computed, again = [], autograd.again

    def counted(call, *operands):
        computed.append((call.face, torch._C._len_torch_function_stack()))
        return again(call, *operands)

    monkeypatch.setattr(autograd, "again", counted)  # where a call was not made before
    monkeypatch.setattr(calls, "again", counted)
    monkeypatch.setattr(calls, "is_torchs_by_name", lambda *_: False)  # ATEN by our operators
    with convext.backend("aten"):
        yield computed


@pytest.mark.parametrize("home", [torch, F])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_is_ours_and_torchs_result(home, name, device, ours):
    x, w, keywords = CALLS[name]
    x, w = (torch.randn(shape, device=device, requires_grad=True) for shape in (x, w))
    function = getattr(home, name)

    def step(**named):
        y = function(x, **named, **keywords) if named else function(x, w, None, **keywords)
        return [y, *torch.autograd.grad(y.square().sum(), (x, w))]

    expected = step()
    assert ours == []
    for named in ({}, {"weight": w}):
        with convext.everywhere():
            torch.testing.assert_close(step(**named), expected)
    count = len(ours)
    assert ours[0] == ("dgrad" if "transpose" in name else "fprop", 0)
    assert {modes for _, modes in ours} == {0}
    torch.testing.assert_close(step(), expected)
    assert len(ours) == count


def test_layers_that_were_not_converted(device, ours):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3)).to(device)
    x = torch.randn(1, 2, 6, 6, device=device)
    expected = net(x)
    with convext.everywhere():
        torch.testing.assert_close(net(x), expected)
    assert [face for face, _ in ours] == ["fprop", "dgrad"]


def test_our_layers_stay_past_the_dispatcher(ours):
    """The mode is a function mode: layers of ours see it, and go on where they go without."""
    layer, x = convext.Conv2d(2, 3, 3), torch.randn(1, 2, 6, 6, requires_grad=True)
    with convext.everywhere():
        layer(x).sum().backward()
    assert ours == [("fprop", 0)]


def test_in_contexts_that_nest_a_call_is_computed_once(ours):
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    with convext.everywhere(), convext.everywhere():
        y = F.conv2d(x, w)
    torch.testing.assert_close(y, F.conv2d(x, w))
    assert ours == [("fprop", 0)]


def test_other_modes_see_what_they_saw():
    class Names(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            names.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    x, w, names = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3), []
    with Names(), convext.everywhere():
        F.conv2d(x, w).relu()
    assert [name for name in names if "conv" in name or "relu" in name] == ["conv2d", "relu"]
    with convext.everywhere(), torch.device("meta"):
        assert torch.empty(2).is_meta


def test_it_belongs_to_its_thread(ours):
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    with convext.everywhere():
        thread = threading.Thread(target=F.conv2d, args=(x, w))
        thread.start()
        thread.join()
    assert ours == []


def test_an_error_closes_it_and_is_torchs(ours):
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 4, 3, 3)
    with pytest.raises(RuntimeError) as torchs:
        F.conv2d(x, w)
    with pytest.raises(RuntimeError) as error, convext.everywhere(), convext.backend("auto"):
        F.conv2d(x, w)
    assert str(error.value) == str(torchs.value)
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("inside", [False, True])
def test_everywhere_under_compile(inside):
    """What torch.compile sees of a call is our operator where the context is open, and torch's where it is not."""

    def net(x, w):
        return torch.relu(F.conv2d(x, w, padding=1))

    def opened(x, w):
        with convext.everywhere():
            return net(x, w)

    graphs = []

    def look(module, example):
        graphs.append(str(module.graph))
        return module.forward

    x, w = torch.randn(1, 2, 6, 6, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    expected = [net(x, w), *torch.autograd.grad(net(x, w).sum(), (x, w))]
    compiled = torch.compile(opened if inside else net, backend=look, fullgraph=True)
    with convext.backend("aten"):
        compiled(x, w)
        if inside:
            y = compiled(x, w)
        else:
            assert "convext" not in graphs[-1]
            with convext.everywhere():
                y = compiled(x, w)
    assert "torch.ops.convext.fprop" in graphs[-1]
    torch.testing.assert_close([y, *torch.autograd.grad(y.sum(), (x, w))], expected)


def test_transforms_everywhere():
    x, w = torch.randn(2, 2, 6, 6), torch.randn(3, 2, 3, 3)

    def loss(w):
        return F.conv2d(x, w).square().sum()

    expected = torch.func.hessian(loss)(w)
    with convext.everywhere(), convext.backend("aten"):
        torch.testing.assert_close(torch.func.hessian(loss)(w), expected)
        torch.testing.assert_close(torch.vmap(F.conv2d)(x[None], w[None])[0], F.conv2d(x, w))


def test_a_model_is_not_its_argument():
    with pytest.raises(TypeError, match="takes no model: call yours in"):
        convext.everywhere(nn.Conv2d(3, 4, 3))
