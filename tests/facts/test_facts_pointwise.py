"""A 1x1 convolution is a linear layer at every pixel."""

import pytest
import torch
from numpy.random import RandomState
from torch import nn

import convext

pytestmark = pytest.mark.usefixtures("backend")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_pointwise_equals_linear_with_the_same_weights(device):
    torch.manual_seed(42)
    x, conv = torch.randn(1, 3, 1, 1), convext.Conv2d(3, 2, 1)
    values = {
        "x": (x, [0.33669037, 0.12880941, 0.23446237]),
        "w": (conv.weight, [0.50895905, -0.42356041, 0.50183064, 0.10805647, 0.42655149, 0.07819088]),
        "b": (conv.bias, [0.27839142, -0.08151666]),
    }
    for actual, expected in values.values():
        torch.testing.assert_close(actual.detach().flatten(), torch.tensor(expected), rtol=0, atol=1e-8)
    x, conv = x.to(device).double(), conv.to(device).double()
    linear = x.flatten() @ conv.weight.view(2, 3).T + conv.bias
    y = conv(x)
    assert y.shape == (1, 2, 1, 1)
    torch.testing.assert_close(y.flatten().cpu(), torch.tensor([0.51285487, 0.02814157]).double(), rtol=0, atol=5e-8)
    torch.testing.assert_close(y.flatten(), linear)


def test_pointwise_in_numpy(layer, tensor, assert_values):
    random = RandomState(42)
    x, w, b = random.rand(3), random.rand(2, 3), random.rand(2)
    assert_values(torch.from_numpy(x), [0.37454012, 0.95071431, 0.73199394], 1e-8)
    assert_values(torch.from_numpy(b), [0.70807258, 0.02058449], 1e-8)
    y = layer(convext.Conv2d, w[:, :, None, None], b)(tensor(x).view(1, 3, 1, 1))
    assert_values(y.flatten(), [1.19481039, 1.30583774], 1e-8)


def test_layers_draw_the_random_numbers_of_torch():
    torch.manual_seed(42)
    weight = convext.Conv2d(3, 2, 3, padding=1).weight
    expected = torch.tensor([
        [[0.1471, 0.1597, -0.0451], [0.1768, -0.0422, 0.0388], [-0.0937, 0.1130, 0.1697]],
        [[-0.1412, 0.1673, 0.0360], [0.1422, 0.0261, 0.0928], [-0.0272, 0.1484, 0.0284]],
        [[-0.0898, 0.0491, -0.0887], [-0.0226, -0.0782, 0.1277], [-0.1519, -0.0887, -0.0543]],
        [[-0.1157, 0.0182, -0.1901], [0.1738, -0.1635, 0.1486], [0.0320, -0.0625, 0.1189]],
        [[0.0300, 0.1555, 0.0210], [-0.0607, 0.0517, -0.0522], [0.0810, 0.1718, 0.1112]],
        [[-0.0841, 0.1111, 0.0344], [0.0977, -0.1173, -0.1905], [-0.0744, -0.1476, 0.1579]],
    ]).view(2, 3, 3, 3)  # fmt: skip
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=5.1e-5)


@pytest.mark.parametrize(("c", "k", "parameters"), [(64, 128, 8320), (256, 64, 16448)])
def test_pointwise_changes_channels_only(c, k, parameters, device):
    conv = convext.Conv2d(c, k, 1).to(device)
    assert conv(torch.randn(1, c, 32, 32, device=device)).shape == (1, k, 32, 32)
    assert count(conv) == parameters


def test_network_in_network(device):
    net = nn.Sequential(
        convext.Conv2d(3, 64, 3, padding=1), nn.ReLU(),
        convext.Conv2d(64, 64, 1), nn.ReLU(),
        convext.Conv2d(64, 64, 1), nn.ReLU(),
    ).to(device)  # fmt: skip
    assert net(torch.randn(1, 3, 32, 32, device=device)).shape == (1, 64, 32, 32)
    assert count(net) == 10112


def test_pointwise_maps_each_pixels_channels(layer, tensor, assert_values):
    pixels = torch.arange(1.0, 17).view(4, 4)  # one row a pixel: [1, 2, 3, 4], [5, 6, 7, 8], ..
    conv = layer(convext.Conv2d, torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]).view(3, 4, 1, 1))
    y = conv(tensor(pixels.T.reshape(1, 4, 2, 2)))
    assert y.shape == (1, 3, 2, 2)
    assert_values(y.flatten(2)[0].T, [[1, 2, 7], [5, 6, 15], [9, 10, 23], [13, 14, 31]])


def test_linear_layer_as_a_convolution_over_the_whole_input(device):
    n, m = 7, 5
    conv = convext.Conv1d(1, m, n, dtype=torch.float64, device=device)
    assert conv.weight.shape == (m, 1, n)
    x = torch.randn(1, n, dtype=torch.float64, device=device)
    y = conv(x)
    assert y.shape == (m, 1)
    torch.testing.assert_close(y.flatten(), nn.functional.linear(x.flatten(), conv.weight.flatten(1), conv.bias))


def test_linear_layer_as_a_convolution_over_the_whole_image(device):
    c, h, w, m = 3, 4, 5, 6
    conv = convext.Conv2d(c, m, (h, w), dtype=torch.float64, device=device)
    assert conv.weight.shape == (m, c, h, w)
    x = torch.randn(c, h, w, dtype=torch.float64, device=device)
    y = conv(x)
    assert y.shape == (m, 1, 1)
    torch.testing.assert_close(y.flatten(), nn.functional.linear(x.flatten(), conv.weight.flatten(1), conv.bias))


def test_pointwise_aligns_channels_for_a_skip_connection(device):
    bottleneck = nn.Sequential(
        convext.Conv2d(256, 64, 1),
        nn.ReLU(),
        convext.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        convext.Conv2d(64, 512, 1),
    ).to(device)
    shortcut = convext.Conv2d(256, 512, 1).to(device)
    x = torch.randn(2, 256, 8, 8, device=device)
    assert (bottleneck(x) + shortcut(x)).shape == (2, 512, 8, 8)
