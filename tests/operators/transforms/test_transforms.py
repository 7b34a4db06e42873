"""torch.func's transforms over the three operators, against the same transforms of torch.nn.functional."""

import pytest
import torch
from geometries import operator
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import convext


def call(face, geometry):
    return lambda a, b, bias=None: operator(face)(a, b, bias, *geometry.tail(face), "aten")


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0), (1, 2), (-1, 0)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
def test_vmap_equals_a_loop(dims, with_bias, face, geometry, device):
    a, b, bias = geometry.draw(face, device)
    if not with_bias:
        bias = None
    elif bias is None:
        bias, with_bias = None, False  # wgrad takes no bias
    batch = 3
    a_dim, b_dim = dims

    def mapped(t: Tensor, dim: int | None) -> Tensor:
        return t if dim is None else torch.stack([t + i for i in range(batch)], dim)

    a, b = mapped(a, a_dim), mapped(b, b_dim)
    bias = mapped(bias, 0) if with_bias else None
    actual = vmap(call(face, geometry), in_dims=(a_dim, b_dim, 0 if with_bias else None))(a, b, bias)
    expected = [
        geometry.torchs(face)(
            a if a_dim is None else a.select(a_dim, i),
            b if b_dim is None else b.select(b_dim, i),
            bias[i] if with_bias else None,
        )
        for i in range(batch)
    ]
    torch.testing.assert_close(actual, torch.stack(expected))


def test_vmap_over_the_bias_alone(geometry, device):
    x, w, bias = geometry.draw("fprop", device)
    biases = torch.stack([bias, 2 * bias])
    actual = vmap(call("fprop", geometry), in_dims=(None, None, 0))(x, w, biases)
    torch.testing.assert_close(actual, torch.stack([geometry.torchs("fprop")(x, w, b) for b in biases]))


def test_nested_vmap(face, geometry, device):
    a, b, _ = geometry.draw(face, device)
    firsts, seconds = torch.stack([a, a + 1, a - 1]), torch.stack([b, 2 * b])
    function, torchs = call(face, geometry), geometry.torchs(face)
    actual = vmap(lambda a: vmap(lambda b: function(a, b))(seconds))(firsts)
    expected = torch.stack([torch.stack([torchs(a, b) for b in seconds]) for a in firsts])
    torch.testing.assert_close(actual, expected)


def test_gradients(face, geometry, device):
    tensors = geometry.draw(face, device)[:2]
    function = call(face, geometry)
    actual = grad(lambda a, b: function(a, b).square().sum(), argnums=(0, 1))(*tensors)
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(geometry.torchs(face)(*leaves).square().sum(), leaves)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_products_with_the_jacobian(face, geometry, device):
    primals = geometry.draw(face, device)[:2]
    tangents = tuple(map(torch.randn_like, primals))
    function = call(face, geometry)
    for ours, theirs in zip(*(jvp(f, primals, tangents) for f in (function, geometry.torchs(face))), strict=True):
        torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn_like(ours)
    pulled = (vjp(f, *primals)[1](cotangent) for f in (function, geometry.torchs(face)))
    for ours, theirs in zip(*pulled, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("argnum", [0, 1])
def test_jacobians_forward_and_reverse(argnum, face, geometry, device):
    tensors = geometry.draw(face, device)[:2]
    function = call(face, geometry)
    expected = jacrev(geometry.torchs(face), argnum)(*tensors)
    torch.testing.assert_close(jacfwd(function, argnum)(*tensors), expected)
    torch.testing.assert_close(jacrev(function, argnum)(*tensors), expected)


@pytest.mark.parametrize("argnum", [0, 1])
def test_hessians(argnum, face, geometry, device):
    tensors = geometry.draw(face, device)[:2]

    def loss(function):
        return lambda a, b: function(a, b).pow(3).sum()

    expected = hessian(loss(geometry.torchs(face)), argnum)(*tensors)
    assert expected.count_nonzero() > 0
    for order in (hessian, twice(jacrev), twice(jacfwd)):
        torch.testing.assert_close(order(loss(call(face, geometry)), argnum)(*tensors), expected)


def twice(jacobian):
    return lambda function, argnum: jacobian(jacobian(function, argnum), argnum)


def test_per_sample_gradients(face, geometry, device):
    a, b, _ = geometry.draw(face, device)
    samples = torch.stack([a, a + 1, a * 2])

    def single(function):
        return grad(lambda b, a: function(a, b).square().sum())

    torch.testing.assert_close(
        vmap(single(call(face, geometry)), in_dims=(None, 0))(b, samples),
        torch.stack([single(geometry.torchs(face))(b, sample) for sample in samples]),
    )


@pytest.mark.parametrize("cls", [convext.Conv1d, convext.Conv2d, convext.ConvTranspose1d, convext.ConvTranspose3d])
def test_ensembles(cls, backend, device):
    models = [cls(4, 6, 3, padding=1, groups=2).to(device).double() for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    rank = models[0].weight.dim() - 2
    x = torch.randn(2, 4, *[5] * rank, dtype=torch.float64, device=device)
    actual = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    torchs = getattr(torch.nn, cls.__name__)(4, 6, 3, padding=1, groups=2).to(device).double()
    expected = [functional_call(torchs, dict(model.named_parameters()), (x,)) for model in models]
    torch.testing.assert_close(actual, torch.stack(expected))
