"""Derivatives of the three operators: to any order, forwards and backwards, against differences and the reference."""

import pytest
import torch
from geometries import GEOMETRIES, channels_last, operator, strided
from torch import Tensor

from convext.problem import OPEN, OPERANDS, reference


def differentiable(tensors):
    return tuple(t.detach().requires_grad_() for t in tensors if t is not None)


def function(face, geometry, kernel="aten"):
    def call(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        return operator(face)(a, b, bias, *geometry.tail(face), kernel)

    return call


@pytest.mark.usefixtures("deterministic")
def test_first_derivatives_agree_with_differences(face, geometry, device):
    tensors = differentiable(geometry.draw(face, device))
    assert torch.autograd.gradcheck(
        function(face, geometry), tensors,
        check_forward_ad=True, check_backward_ad=True, check_batched_grad=True, check_batched_forward_grad=True,
        rtol=1e-6, atol=1e-7,
    )  # fmt: skip


def test_first_derivatives_are_torchs(face, geometry, device):
    """Closer than differences can see: a bias's gradient that is off by a thousandth as well."""
    tensors = differentiable(geometry.draw(face, device))
    gradients = [
        torch.autograd.grad(compute(*tensors).pow(3).sum(), tensors)
        for compute in (function(face, geometry), geometry.torchs(face))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("deterministic")
def test_second_derivatives_agree_with_differences(face, geometry, device):
    tensors = differentiable(geometry.draw(face, device))
    assert torch.autograd.gradgradcheck(
        function(face, geometry), tensors,
        check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True, fast_mode=True, rtol=1e-6, atol=1e-7,
    )  # fmt: skip


def test_third_derivatives_agree_with_the_references(face, geometry, device):
    a, b, _ = geometry.draw(face, device)

    def third(compute):
        """d/da d/db d/da of the sum of cubes, each contracted with ones."""
        leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
        value = compute(*leaves).pow(3).sum()
        for leaf in (leaves[0], leaves[1], leaves[0]):
            (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = grad.sum()
        return grad

    oracle = third(lambda a, b: reference.compute(geometry.problem(face), a, b))
    torch.testing.assert_close(third(function(face, geometry)), oracle)


UPSTREAM = {
    "contiguous": lambda t: t,
    "slice": strided,
    "channels_last": channels_last,
    "expanded": lambda t: t.new_ones(()).expand(t.shape),
    "expanded batch": lambda t: t[:1].expand(t.shape),
    "permuted": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
}


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_gradients_of_any_strides(upstream, face, geometry, device):
    """Gradients arrive as slices from torch.cat and with stride 0 from .sum(); no gradcheck feeds these."""
    a, b = (t.requires_grad_() for t in geometry.draw(face, device)[:2])
    grad = UPSTREAM[upstream](torch.randn(geometry.shapes[OPEN[face]], device=device, dtype=torch.float64))
    actual = torch.autograd.grad(function(face, geometry)(a, b), (a, b), grad)
    oracle = torch.autograd.grad(reference.compute(geometry.problem(face), a, b), (a, b), grad)
    for ours, expected in zip(actual, oracle, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("order", [strided, channels_last], ids=["slice", "channels_last"])
def test_operands_of_any_strides(order, face, geometry, device):
    a, b, bias = geometry.draw(face, device)
    oracle = reference.compute(geometry.problem(face), a, b, bias)
    for first, second in ((order(a), b), (a, order(b)), (order(a), order(b))):
        torch.testing.assert_close(function(face, geometry)(first, second, bias), oracle)


def test_gradients_through_cat_and_sum(face, geometry, device):
    a, b = (t.requires_grad_() for t in geometry.draw(face, device)[:2])

    def gradients(compute):
        first, second = compute(a, b), compute(a * 2, b)
        loss = torch.cat([first, second], 1).square().sum() + first.sum()
        return torch.autograd.grad(loss, (a, b))

    oracle = gradients(lambda a, b: reference.compute(geometry.problem(face), a, b))
    for ours, expected in zip(gradients(function(face, geometry)), oracle, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_only_the_wanted_gradients(wanted, device):
    geometry = GEOMETRIES[0]
    tensors = geometry.draw("fprop", device)
    for t, want in zip(tensors, wanted, strict=True):
        t.requires_grad_(want)
    function("fprop", geometry)(*tensors).sum().backward()
    assert tuple(t.grad is not None for t in tensors) == wanted


def test_tangents_of_one_operand(face, device):
    """Forward mode with a tangent on one operand alone: the face applied to that tangent."""
    geometry = GEOMETRIES[2]
    a, b, _ = geometry.draw(face, device)
    call = function(face, geometry)
    with torch.autograd.forward_ad.dual_level():
        for primals in ((a, None), (None, b)):
            tangents = [t if t is None else torch.randn_like(t) for t in primals]
            duals = [
                t if tangent is None else torch.autograd.forward_ad.make_dual(t, tangent)
                for t, tangent in zip((a, b), tangents, strict=True)
            ]
            tangent = torch.autograd.forward_ad.unpack_dual(call(*duals)).tangent
            alone = [t if given is None else given for t, given in zip((a, b), tangents, strict=True)]
            torch.testing.assert_close(tangent, geometry.torchs(face)(*alone))


def test_faces_are_each_others_adjoints(geometry, device):
    """<y, fprop(x, w)> = <x, dgrad(y, w)> = <w, wgrad(x, y)>: the one trilinear form, by three operators and torch."""
    tensors = {role: torch.randn(geometry.shapes[role], device=device, dtype=torch.float64) for role in "xwy"}
    forms = [
        (tensors[OPEN[face]] * function(face, geometry)(*(tensors[r] for r in OPERANDS[face]))).sum()
        for face in ("fprop", "dgrad", "wgrad")
    ]
    expected = (tensors["y"] * geometry.torchs("fprop")(tensors["x"], tensors["w"])).sum()
    for form in forms:
        torch.testing.assert_close(form, expected)
