"""Dilated convolutions: receptive fields, sizes, parameter counts.

A receptive field is measured, not computed: the inputs that one output depends on are those with a gradient.
"""

import pytest
import torch
from torch import Tensor, nn

import convext

pytestmark = pytest.mark.usefixtures("backend")


def reach(net: nn.Module, length: int, device: str) -> Tensor:
    """Which of `length` inputs the last output depends on."""
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 1, length, dtype=torch.float64, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x)[..., -1].sum(), x)
    return grad[0, 0] != 0


def stack(k: int, dilations: list[int], device: str) -> nn.Module:
    layers = [
        convext.Conv1d(1, 1, k, dilation=d, padding="causal", bias=False, dtype=torch.float64, device=device)
        for d in dilations
    ]
    return nn.Sequential(*layers)


def span(reached: Tensor) -> int:
    first, last = reached.nonzero()[[0, -1], 0].tolist()
    return last - first + 1


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("k", "d", "field"), [(3, 1, 3), (3, 2, 5), (3, 4, 9), (3, 8, 17), (3, 16, 33)])
def test_receptive_field_of_one_layer(k, d, field, device):
    reached = reach(stack(k, [d], device), 50, device)
    assert span(reached) == field == (k - 1) * d + 1
    assert reached.sum() == k


@pytest.mark.parametrize("layers", range(1, 9))
def test_receptive_field_doubles_with_each_layer(layers, device):
    field = [2, 4, 8, 16, 32, 64, 128, 256][layers - 1]
    reached = reach(stack(2, [2**i for i in range(layers)], device), 300, device)
    assert span(reached) == field
    assert reached.sum() == field


def test_receptive_field_of_a_stack_of_three_taps(device):
    assert span(reach(stack(3, [2**i for i in range(6)], device), 200, device)) == 127
    assert span(reach(stack(3, [32], device), 200, device)) == 65  # the last layer alone


def test_receptive_field_of_thirty_causal_layers(device):
    reached = reach(stack(2, [2**i for i in range(10)] * 3, device), 3200, device)
    assert span(reached) == 3070
    assert reached.sum() == 3070


@pytest.mark.parametrize(
    ("dilations", "offsets", "field"),
    [
        ([2, 2, 2, 2], 9, 17),
        ([2, 3, 2, 3], 19, 21),
        ([1, 2, 5], 17, 17),
        ([1, 2, 4, 8, 16, 32], 127, 127),
        ([2, 4, 8], 15, 29),
        ([4, 4, 4], 7, 25),
    ],
)
def test_equal_dilations_leave_a_grid_of_holes(dilations, offsets, field, device):
    reached = reach(stack(3, dilations, device), 150, device)
    assert (int(reached.sum()), span(reached)) == (offsets, field)


@pytest.mark.parametrize(("dilation", "size"), [(2, 5), (4, 9)])
def test_a_dilated_kernel_is_a_dense_kernel_with_holes(dilation, size, device):
    dilated = convext.Conv2d(4, 6, 3, dilation=dilation, dtype=torch.float64, device=device)
    dense = nn.Conv2d(4, 6, size, dtype=torch.float64, device=device)
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[..., ::dilation, ::dilation] = dilated.weight
        dense.bias.copy_(dilated.bias)
    x = torch.randn(2, 4, 13, 14, dtype=torch.float64, device=device)
    torch.testing.assert_close(dilated(x), dense(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [1, 2, 4, 8, 16])
def test_padding_by_the_dilation_keeps_the_size(d, device):
    x = torch.randn(1, 64, 20, 21, device=device)
    conv = convext.Conv2d(64, 64, 3, padding=d, dilation=d, device=device)
    assert conv(x).shape == x.shape
    assert conv(x[0]).shape == x.shape[1:]


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_padding_by_the_dilation_keeps_the_length(d, device):
    conv = convext.Conv1d(4, 4, 3, padding=d, dilation=d, device=device)
    assert conv(torch.randn(2, 4, 31, device=device)).shape == (2, 4, 31)


@pytest.mark.parametrize(("k", "d"), [(k, d) for k in (2, 3, 4, 5) for d in (1, 2, 3)])
def test_same_keeps_the_length_for_even_kernels_too(k, d, device):
    x = torch.randn(1, 2, 16, device=device)
    half = d * (k - 1) // 2
    assert convext.Conv1d(2, 2, k, dilation=d, padding="same", device=device)(x).shape == (1, 2, 16)
    symmetric = {(2, 1): 15, (2, 3): 15, (4, 1): 15, (4, 3): 15}.get((k, d), 16)
    assert convext.Conv1d(2, 2, k, dilation=d, padding=half, device=device)(x).shape == (1, 2, symmetric)


def test_dilation_in_place_of_stride_keeps_the_size(device):
    head = nn.Sequential(
        convext.Conv2d(64, 128, 3, padding=2, dilation=2),
        convext.Conv2d(128, 256, 3, padding=4, dilation=4),
        convext.Conv2d(256, 512, 3, padding=8, dilation=8),
    ).to(device)
    assert [count(layer) for layer in head] == [73856, 295168, 1180160]
    assert count(head) == 1549184
    assert head(torch.randn(1, 64, 6, 7, device=device)).shape == (1, 512, 6, 7)


@pytest.mark.parametrize(("k", "parameters"), [(64, 4800), (128, 8960)])
def test_separable_dilated_convolution(k, parameters, device):
    net = nn.Sequential(
        convext.Conv2d(64, 64, 3, padding=2, dilation=2, groups=64), convext.Conv2d(64, k, 1)
    ).to(device)  # fmt: skip
    assert count(net) == parameters
    assert net(torch.randn(1, 64, 9, 9, device=device)).shape == (1, k, 9, 9)


@pytest.mark.parametrize(("groups", "parameters"), [(8, 4672), (1, 36928)])
def test_grouped_dilated_convolution(groups, parameters, device):
    conv = convext.Conv2d(64, 64, 3, padding=2, dilation=2, groups=groups).to(device)
    assert count(conv) == parameters
    assert conv(torch.randn(1, 64, 9, 9, device=device)).shape == (1, 64, 9, 9)


def test_two_sequences_through_a_gated_causal_block_keep_their_length(device):
    gate, value = (convext.Conv1d(8, 8, 2, dilation=2, padding="causal", device=device) for _ in range(2))
    x = torch.randn(2, 8, 16, device=device)
    assert (torch.tanh(value(x)) * torch.sigmoid(gate(x)) + x).shape == x.shape
