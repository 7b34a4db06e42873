"""convext.convert: in place, in a copy, undone, and what it leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import convext


def model(device="cpu"):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, 2))
    ).to(device)


class Doubled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_in_place(device, backend):
    net, x = model(device), torch.randn(2, 3, 4, 4, device=device)
    expected, parameters = net(x), list(net.parameters())
    done = convext.convert(net)
    assert done.model is net
    assert done.converted == ["0", "2.1"]
    assert done.left_alone == {}
    assert type(net[0]) is convext.Conv2d
    assert type(net[2][1]) is convext.ConvTranspose2d
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    torch.testing.assert_close(net(x), expected)


def test_undo(device):
    net = model(device)
    done = convext.convert(net)
    assert done.undo() is net
    assert type(net[0]) is nn.Conv2d
    assert type(net[2][1]) is nn.ConvTranspose2d
    assert done.undo() is net
    assert not any(isinstance(module, convext.Conv2d) for module in net.modules())


def test_a_copy_shares_parameters_and_buffers(device):
    net = model(device)
    done = convext.convert(net, inplace=False)
    assert done.model is not net
    assert type(net[0]) is nn.Conv2d
    assert type(done.model[0]) is convext.Conv2d
    for ours, theirs in ((done.model.parameters(), net.parameters()), (done.model.buffers(), net.buffers())):
        assert all(a is b for a, b in zip(ours, theirs, strict=True))
    done.model(torch.randn(2, 3, 4, 4, device=device)).sum().backward()
    assert net[0].weight.grad is not None


def test_a_convolution_itself():
    layer = nn.Conv1d(2, 3, 3)
    assert type(convext.convert(layer).model) is convext.Conv1d
    assert type(convext.convert(nn.Conv3d(2, 3, 3), inplace=False).model) is convext.Conv3d


def test_a_shared_layer_stays_shared(device):
    layer = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(layer, nn.ReLU(), layer).to(device)
    for inplace in (False, True):
        converted = convext.convert(net, inplace).model
        assert converted[0] is converted[2]
        assert type(converted[0]) is convext.Conv2d


def test_hooks_modes_and_freezing_survive(device):
    net, seen = model(device).eval(), []
    net[0].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    net[0].weight.requires_grad_(False)
    convext.convert(net).model(torch.randn(1, 3, 4, 4, device=device))
    assert seen == [convext.Conv2d]
    assert not net[0].training
    assert not net[0].weight.requires_grad


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(3, 4, 3), "Doubled is a subclass, whose forward may be its own"),
        (lambda: nn.LazyConv2d(4, 3), "LazyConv2d has no shape yet"),
        (lambda: parametrize.register_parametrization(nn.Conv2d(3, 4, 3), "weight", nn.Tanh()), "is parametrized"),
    ],
    ids=["subclass", "lazy", "parametrized"],
)
def test_left_alone_with_a_reason(make, reason):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), make())
    before = type(net[1])
    done = convext.convert(net)
    assert type(net[1]) is before
    assert done.converted == ["0"]
    assert reason in done.left_alone["1"]
    assert str(done).splitlines()[0] == "1 layers converted, 1 left alone"
    assert reason in str(done)
    x = torch.randn(1, 3, 6, 6)
    assert net(x).shape == (1, 4, 4, 4)


def test_a_lazy_layer_after_its_first_call():
    net = nn.Sequential(nn.LazyConv2d(4, 3))
    net(torch.randn(1, 3, 6, 6))
    assert convext.convert(net).converted == ["0"]


def test_converted_twice():
    net = model()
    convext.convert(net)
    again = convext.convert(net)
    assert again.converted == []
    assert again.left_alone == {}


def test_undo_leaves_layers_that_were_convexts_already():
    net = nn.Sequential(convext.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    convext.convert(net).undo()
    assert [type(layer) for layer in net] == [convext.Conv2d, nn.Conv2d]


def test_a_weight_normalised_layer_works(device):
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))).to(device)
    done = convext.convert(net)
    assert "parametrized" in done.left_alone["0"]
    assert net(torch.randn(1, 3, 5, 5, device=device)).shape == (1, 4, 3, 3)
