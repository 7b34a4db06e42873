"""torch.jit.trace: of the operators, and of layers, whose trace computes inputs of other sizes too."""

import io

import pytest
import torch
from geometries import operator
from torch.nn import functional as F

import convext
from convext.problem import reference


def reloaded(traced):
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


def test_operators(face, geometry, device):
    a, b, _ = geometry.draw(face, device)
    expected = reference.compute(geometry.problem(face), 2 * a, b).relu()
    traced = torch.jit.trace(lambda a, b: operator(face)(a, b, None, *geometry.tail(face), "aten").relu(), (a, b))
    torch.testing.assert_close(reloaded(traced)(2 * a, b), expected)
    a.requires_grad_()
    oracle = torch.autograd.grad(reference.compute(geometry.problem(face), a, b).relu().sum(), a)
    torch.testing.assert_close(torch.autograd.grad(traced(a, b).sum(), a), oracle)


def test_an_operator_that_is_given_a_tensors_size(device):
    """torch records such a list where the schema has integers, and fails on SymInts."""
    y, w, x = (torch.randn(shape, device=device) for shape in ((1, 2, 5), (2, 3, 3), (1, 3, 7)))
    dgrad = lambda y, w, x: torch.ops.convext.dgrad(y, w, None, x.shape[2:], [1], [0], [1], 1, "aten")  # noqa: E731
    traced = torch.jit.trace(dgrad, (y, w, x))
    torch.testing.assert_close(reloaded(traced)(2 * y, w, x), F.conv_transpose1d(2 * y, w))


LAYERS = {
    "causal": (
        lambda: convext.Conv1d(4, 6, 3, dilation=2, padding="causal"),
        lambda m, x: F.conv1d(F.pad(x, (4, 0)), m.weight, m.bias, dilation=2),
        1,
    ),
    "pairs": (
        lambda: convext.Conv2d(4, 6, 3, padding=((1, 2), 0), groups=2),
        lambda m, x: F.conv2d(F.pad(x, (0, 0, 1, 2)), m.weight, m.bias, groups=2),
        2,
    ),
    "same": (
        lambda: convext.Conv1d(4, 6, 2, 3, padding="same"),
        lambda m, x: F.conv1d(F.pad(x, (0, max(0, -(-x.shape[2] // 3) * 3 - 1 - x.shape[2]))), m.weight, m.bias, 3),
        1,
    ),
    "plain": (
        lambda: convext.Conv3d(4, 6, 3, padding=1),
        lambda m, x: F.conv3d(x, m.weight, m.bias, padding=1),
        3,
    ),
    "transposed": (
        lambda: convext.ConvTranspose2d(4, 6, 3, 2, output_padding=1, groups=2),
        lambda m, x: F.conv_transpose2d(x, m.weight, m.bias, 2, 0, 1, 2),
        2,
    ),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_other_sizes(name, frozen, backend, device):
    make, expected, rank = LAYERS[name]
    layer = make().to(device).requires_grad_(not frozen)
    traced = torch.jit.trace(layer, torch.randn(2, 4, *[7] * rank, device=device, requires_grad=True))
    for length in (7, 8, 10):
        x = torch.randn(3, 4, *[length] * rank, device=device)
        torch.testing.assert_close(reloaded(traced)(x), expected(layer, x))


def test_a_kernel_asked_for_by_name_is_in_the_trace(device):
    with convext.backend("aten"):
        traced = torch.jit.trace(convext.Conv2d(3, 4, 3).to(device), torch.randn(1, 3, 5, 5, device=device))
    assert "convext::conv" in str(traced.inlined_graph)
