"""Tensors and modes that want to see a call, and that the way past the dispatcher must not hide it from."""

import threading

import pytest
import torch
from geometries import GEOMETRIES, operator
from torch.utils._python_dispatch import TorchDispatchMode

import convext
from convext import functional as F
from convext.operators import autograd, convolve
from convext.operators.plain import is_plain


def tensors(device):
    return torch.randn(2, 3, 6, 6, device=device), torch.randn(4, 3, 3, 3, device=device)


class Named(torch.Tensor):
    """Sees calls above autograd."""

    seen: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(getattr(func, "__name__", str(func)))
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapped(torch.Tensor):
    """Sees calls below autograd."""

    seen: list = []  # noqa: RUF012

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(str(func))
        args, kwargs = torch.utils._pytree.tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return torch.utils._pytree.tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


@pytest.mark.parametrize("which", [0, 1])
def test_a_function_subclass_sees_the_call_and_keeps_its_type(which, backend, device):
    operands = list(tensors(device))
    expected = torch.nn.functional.conv2d(*operands)
    operands[which] = operands[which].as_subclass(Named)
    Named.seen.clear()
    result = F.conv2d(*operands)
    assert type(result) is Named
    assert any("conv2d" in name or "fprop" in name for name in Named.seen)
    torch.testing.assert_close(result.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("which", [0, 1])
def test_a_dispatch_subclass_sees_the_call_and_keeps_its_type(which, backend, device):
    operands = list(tensors(device))
    expected = torch.nn.functional.conv2d(*operands)
    operands[which] = Wrapped(operands[which])
    Wrapped.seen.clear()
    result = F.conv2d(*operands)
    assert type(result) is Wrapped
    assert any("conv" in name for name in Wrapped.seen)
    torch.testing.assert_close(result.inner, expected)


def test_modes_see_the_operator(face, device):
    class Recorder(TorchDispatchMode):
        seen: list = []  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    geometry = GEOMETRIES[0]
    a, b, _ = geometry.draw(face, device)
    with Recorder() as recorder:
        convolve(face, a, b, None, *geometry.tail(face), "aten")
    assert operator(face) in recorder.seen


def test_function_modes_see_the_layer(backend, device):
    class Recorder(torch.overrides.TorchFunctionMode):
        seen: list = []  # noqa: RUF012

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    layer, (x, _) = convext.Conv2d(3, 4, 3, device=device), tensors(device)
    with Recorder() as recorder:
        layer(x)
    assert any("conv2d" in name or "fprop" in name for name in recorder.seen)


@pytest.mark.parametrize("which", [0, 1])
def test_negative_bits(which, face, geometry, device):
    operands = list(geometry.draw(face, device)[:2])
    function = operator(face)
    expected = -geometry.torchs(face)(*operands)
    operands[which] = torch._neg_view(operands[which])
    assert operands[which].is_neg()
    torch.testing.assert_close(function(*operands, None, *geometry.tail(face), "aten"), expected)
    torch.testing.assert_close(convolve(face, *operands, None, *geometry.tail(face), "aten"), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, backend, device):
    layer, (x, _) = convext.Conv2d(3, 4, 3, device=device), tensors(device)
    expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias).detach()
    with mode():
        y = layer(x)
    assert not y.requires_grad
    assert y.is_inference() == (mode is torch.inference_mode)
    torch.testing.assert_close(y, expected)


def test_inference_tensors_are_refused_where_they_would_be_saved(device):
    with torch.inference_mode():
        x, _ = tensors(device)
    layer = convext.Conv2d(3, 4, 3, device=device)
    with convext.backend("aten"), pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        layer(x)


def test_default_device(backend):
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        layer = convext.Conv2d(3, 4, 3)
        y = layer(torch.randn(2, 3, 6, 6))
        assert y.device.type == "meta"
        assert y.shape == (2, 4, 4, 4)
    finally:
        torch.set_default_device(None)
    assert torch.get_default_device() == before
    x, w = tensors("cpu")
    assert F.conv2d(x, w).device.type == "cpu"


@pytest.mark.parametrize("cls", [convext.Conv1d, convext.Conv2d, convext.Conv3d, convext.ConvTranspose2d])
def test_forward_mode_through_layers(cls, backend, device):
    layer = cls(3, 4, 2, device=device, dtype=torch.float64)
    x = torch.randn(2, 3, *[5] * (layer.weight.dim() - 2), device=device, dtype=torch.float64)
    tangent = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        ours = torch.autograd.forward_ad.unpack_dual(y).tangent
    assert ours is not None
    torchs = getattr(torch.nn, cls.__name__)(3, 4, 2, bias=False, device=device)
    torchs.weight = layer.weight
    torch.testing.assert_close(ours, torchs(tangent))  # linear: the tangent's own convolution


def test_threads_do_not_meet(backend, device):
    """Forward and backward in eight threads at once give what torch gives in one."""
    layers = [convext.Conv2d(3, 4, 3, padding=1, dtype=torch.float64, device=device) for _ in range(8)]
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, device=device)

    def torchs(layer):
        y = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
        return torch.autograd.grad(y.square().sum(), layer.weight)[0]

    expected = list(map(torchs, layers))

    def work(layer):
        for _ in range(10):
            layer.weight.grad = None
            layer(x).square().sum().backward()

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for layer, grad in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.grad, grad)


SEEN = {  # tensors whose data are not what lies in their memory, or that somebody wants to see
    "negative bit": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "zeros without memory": lambda: torch._efficientzerotensor((3,)),
    "function subclass": lambda: torch.randn(3).as_subclass(Named),
    "sparse": lambda: torch.randn(3).to_sparse(),
    "meta": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.parametrize("kind", SEEN)
def test_the_dispatcher_sees(kind):
    plain, parameter, seen = torch.randn(3), torch.nn.Parameter(torch.randn(3)), SEEN[kind]()
    assert is_plain(plain, parameter, None)
    assert not is_plain(seen)
    assert not is_plain(plain, seen, None)


@pytest.mark.parametrize("by", [0, 1], ids=["input", "weight"])
def test_a_tangent_of_one_operand_is_one_convolution(by, device, monkeypatch):
    operands, faces = list(tensors(device)), []
    tail = (None, [4, 4], [1, 1], [0, 0], [1, 1], 1, "aten")
    monkeypatch.setattr(autograd, "convolve", lambda face, *rest: faces.append(face) or convolve(face, *rest))

    def tangent(function):
        moved = lambda t: function(*operands[:by], t, *operands[by + 1 :])  # noqa: E731
        return torch.func.jvp(moved, (operands[by],), (torch.ones_like(operands[by]),))[1]

    actual = tangent(lambda x, w: operator("fprop")(x, w, *tail))
    torch.testing.assert_close(actual, tangent(torch.nn.functional.conv2d))
    assert faces == ["fprop"]


def test_a_gradient_that_somebody_stops(device):
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    x, w = (t.requires_grad_() for t in tensors(device))
    with convext.backend("aten"):
        Stop.apply(F.conv2d(x, w)).sum().backward()
    assert x.grad is w.grad is None
