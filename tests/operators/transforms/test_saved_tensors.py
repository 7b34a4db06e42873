"""What a call keeps for its backward pass: what the wanted gradients read, and nothing else."""

import gc
import weakref

import pytest
import torch
from geometries import GEOMETRIES, operator
from torch.utils.checkpoint import checkpoint

import convext


def saved_by(call):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        result = call()
    return saved, result


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)], ids=["first", "second", "both"])
def test_operators_save_the_other_operand(wanted, face, device):
    geometry = GEOMETRIES[0]
    a, b, _ = geometry.draw(face, device)
    a.requires_grad_(wanted[0])
    b.requires_grad_(wanted[1])
    saved, _ = saved_by(lambda: operator(face)(a, b, None, *geometry.tail(face), "aten"))
    expected = [t.data_ptr() for t, want in ((a, wanted[1]), (b, wanted[0])) if want]
    assert saved == expected


def test_a_bias_alone_saves_nothing(device):
    x, w, bias = GEOMETRIES[0].draw("fprop", device)
    bias.requires_grad_()
    saved, y = saved_by(lambda: operator("fprop")(x, w, bias, *GEOMETRIES[0].tail("fprop"), "aten"))
    assert saved == []
    y.sum().backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, y.numel() / bias.numel()))


LAYERS = [convext.Conv1d, convext.Conv2d, convext.Conv3d, convext.ConvTranspose1d, convext.ConvTranspose2d]


@pytest.mark.parametrize("cls", [*LAYERS, convext.ConvTranspose3d])
def test_a_frozen_layer_does_not_keep_its_input_alive(cls, backend, device):
    layer = cls(2, 2, 3, device=device).requires_grad_(False)
    leaf = torch.randn(1, 2, *[5] * (layer.weight.dim() - 2), device=device, requires_grad=True)
    hidden = leaf * 2
    y = layer(hidden)
    gone = weakref.ref(hidden)
    del hidden
    gc.collect()
    assert gone() is None
    y.sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("frozen", [True, False])
def test_an_input_without_gradient_does_not_keep_the_weight(frozen, device):
    """Only the gradient by the input reads the weight, so without one the weight is not saved."""
    layer = convext.Conv2d(2, 2, 3, device=device)
    x = torch.randn(1, 2, 5, 5, device=device, requires_grad=not frozen)
    with convext.backend("aten"):
        saved, _ = saved_by(lambda: layer(x))
    assert (layer.weight.data_ptr() in saved) == (not frozen)
    assert x.data_ptr() in saved


def test_nothing_is_saved_without_gradients(backend, device):
    layer, x = convext.Conv2d(2, 2, 3, device=device), torch.randn(1, 2, 5, 5, device=device)
    with torch.no_grad():
        saved, y = saved_by(lambda: layer(x))
    assert saved == []
    assert not y.requires_grad


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_gradients(use_reentrant, face, geometry, device):
    a, b, _ = geometry.draw(face, device)

    def ours(a, b):
        return operator(face)(a, b, None, *geometry.tail(face), "aten").sin()

    def gradients(wrap):
        leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
        y = wrap(leaves)
        return torch.autograd.grad(y.sum(), leaves) if not use_reentrant else backward(y, leaves)

    def backward(y, leaves):  # the reentrant kind does not work with torch.autograd.grad
        y.sum().backward()
        return tuple(leaf.grad for leaf in leaves)

    expected = gradients(lambda leaves: geometry.torchs(face)(*leaves).sin())
    recomputed = gradients(lambda leaves: checkpoint(ours, *leaves, use_reentrant=use_reentrant))
    for actual, theirs in zip(recomputed, expected, strict=True):
        torch.testing.assert_close(actual, theirs)


def test_an_operand_changed_in_place_is_noticed(face, device):
    geometry = GEOMETRIES[0]
    a, b, _ = geometry.draw(face, device)
    a.requires_grad_()
    b = b * 1
    y = operator(face)(a, b, None, *geometry.tail(face), "aten")
    b.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
