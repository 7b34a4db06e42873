"""Both gradients of a convolution in one call: what each face gives, and in every mode that the faces work in."""

import dataclasses

import pytest
import torch
from geometries import GEOMETRIES, Geometry, channels_last, strided
from torch.utils.flop_counter import FlopCounterMode

from convext.choice import registry, remembered, settings
from convext.commands.check import agreement
from convext.operators import forward

OP = torch.ops.convext.dgrad_wgrad.default
ORDERS = {
    "contiguous": (lambda t: t,) * 3,
    "channels_last": (channels_last,) * 3,
    "y channels_last": (channels_last, lambda t: t, lambda t: t),
    "w channels_last": (lambda t: t, channels_last, lambda t: t),
    "x channels_last": (lambda t: t, lambda t: t, channels_last),
    "slices": (strided,) * 3,
    "y expanded": (lambda t: t[:1, :1].expand(t.shape), lambda t: t, lambda t: t),
}


def tensors(geometry: Geometry, device, dtype=torch.float64, order="contiguous"):
    """y, w and x."""
    return [
        reorder(torch.randn(geometry.shapes[role], device=device, dtype=dtype))
        for role, reorder in zip("ywx", ORDERS[order], strict=True)
    ]


def arguments(geometry: Geometry, kernel="aten"):
    return (*geometry.tail("dgrad")[1:], kernel)


def torchs(geometry: Geometry):
    """The two gradients by torch.nn.functional."""
    return lambda y, w, x: (geometry.torchs("dgrad")(y, w), geometry.torchs("wgrad")(x, y))


def faces(y, w, x, *tail):
    """The two gradients by the operators of the faces."""
    return (
        torch.ops.convext.dgrad(y, w, None, x.shape[2:], *tail),
        torch.ops.convext.wgrad(x, y, None, w.shape[2:], *tail),
    )


@pytest.mark.parametrize("order", ORDERS)
def test_gives_torchs_gradients_in_the_order_of_the_faces(order, geometry, device):
    operands = tensors(geometry, device, order=order)
    before = [t.clone() for t in operands]
    together, apart = (op(*operands, *arguments(geometry)) for op in (OP, faces))
    for ours, theirs, face in zip(together, torchs(geometry)(*operands), apart, strict=True):
        torch.testing.assert_close(ours, theirs)
        same, axis = torch._prims_common.check_significant_strides(ours, face, only_cuda=False)
        assert same, f"axis {axis}: {ours.stride()}, {face.stride()}"
    assert all(map(torch.equal, operands, before))


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "slices"])
def test_opcheck(order, geometry, device):
    operands = [t.detach().requires_grad_() for t in tensors(geometry, device, torch.float32, order)]
    torch.library.opcheck(OP, (*operands, *arguments(geometry)))


@pytest.mark.usefixtures("deterministic")
def test_derivatives_agree_with_differences(geometry, device):
    operands = tuple(t.requires_grad_() for t in tensors(geometry, device))
    tail = arguments(geometry)
    assert torch.autograd.gradcheck(
        lambda *t: OP(*t, *tail),
        operands,
        check_forward_ad=True,
        check_batched_grad=True,
        fast_mode=True,
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    "in_dims", [(0, 0, 0), (2, 1, 3), (1, None, 0), (None, 2, None), (0, None, None), (None, None, 1)]
)
def test_mapped(in_dims, geometry, device):
    operands = [
        t if dim is None else torch.stack([t, -2 * t, t + 1], dim)
        for t, dim in zip(tensors(geometry, device), in_dims, strict=True)
    ]
    ours_of = lambda *t: OP(*t, *arguments(geometry))  # noqa: E731
    mapped = [torch.vmap(op, in_dims)(*operands) for op in (ours_of, torchs(geometry))]
    for ours, theirs in zip(*mapped, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 1, 2)])
def test_mapped_over_one(in_dims, device):
    geometry = GEOMETRIES[0]
    operands = [
        t if dim is None else t.unsqueeze(dim) for t, dim in zip(tensors(geometry, device), in_dims, strict=True)
    ]
    mapped = torch.vmap(lambda *t: OP(*t, *arguments(geometry)), in_dims)(*operands)
    for ours, theirs in zip(mapped, torch.vmap(torchs(geometry), in_dims)(*operands), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_counts_the_flops_of_both(device):
    geometry = GEOMETRIES[0]
    with FlopCounterMode(display=False) as counter:
        OP(*tensors(geometry, device), *arguments(geometry))
    (n, k, o), (_, c, taps) = geometry.shapes["y"], geometry.shapes["w"]
    assert counter.get_total_flops() == 2 * (2 * n * k * o * c * taps)


def test_casts_under_autocast(device):
    geometry = GEOMETRIES[0]
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        results = OP(*tensors(geometry, device, torch.float32), *arguments(geometry))
    assert [t.dtype for t in results] == [torch.bfloat16] * 2


@pytest.mark.parametrize("wrong", [1, 2])
def test_operands_that_differ_in_dtype(wrong, device):
    operands = tensors(GEOMETRIES[0], device)
    operands[wrong] = operands[wrong].float()
    with pytest.raises(RuntimeError, match=f"dgrad_wgrad: .* and {'ywx'[wrong]} type .* should be the same"):
        OP(*operands, *arguments(GEOMETRIES[0]))


@pytest.mark.parametrize("wrong", [1, 2])
def test_operands_on_two_devices(wrong, device):
    operands = tensors(GEOMETRIES[0], device)
    operands[wrong] = operands[wrong].to("meta")
    with pytest.raises(RuntimeError, match=f"expected all tensors on one device, but got {device}.* {'ywx'[wrong]} on"):
        forward.compute_gradients("fprop", *operands, *arguments(GEOMETRIES[0]), False)


# ------------------------------------------------------------------------------------- which calls take it, and when


@pytest.fixture
def calls(monkeypatch):
    """What ATen's record computed: "both", or a face."""
    seen = []

    def counted(problem, *operands):
        seen.append(problem.face)
        return registry.ATEN.run(problem, *operands)

    def counted_both(dgrad, *operands):
        seen.append("both")
        return registry.ATEN.both.run(dgrad, *operands)

    both = dataclasses.replace(registry.ATEN.both, run=counted_both)
    record = dataclasses.replace(registry.ATEN, name="cuda.counted", run=counted, both=both)
    monkeypatch.setattr(registry, "KERNELS", [*registry.KERNELS, record])
    monkeypatch.setattr(registry, "unavailable", lambda provider, problem: None)
    remembered.forget()
    yield seen
    remembered.forget()


SYMMETRIC, ASYMMETRIC = GEOMETRIES[0], GEOMETRIES[1]


def backward(geometry, wanted, device, **options):
    y, w, x = tensors(geometry, device)
    leaves = [t.requires_grad_() for t, want in zip((x, w), wanted, strict=True) if want]
    result = torch.ops.convext.fprop(x, w, None, *geometry.tail("fprop"), "cuda.counted")
    return torch.autograd.grad(result, leaves, y, **options)


def test_a_backward_pass_computes_both_at_once(calls, device):
    backward(SYMMETRIC, (True, True), device)
    assert calls == ["fprop", "both"]


@pytest.mark.parametrize(("wanted", "face"), [((True, False), "dgrad"), ((False, True), "wgrad")])
def test_one_gradient_is_one_face(wanted, face, calls, device):
    backward(SYMMETRIC, wanted, device)
    assert calls == ["fprop", face]


def test_derivatives_of_derivatives_take_the_faces(calls, device):
    by_x, _ = backward(SYMMETRIC, (True, True), device, create_graph=True)
    assert calls == ["fprop", "dgrad", "wgrad"]
    assert by_x.requires_grad


def test_what_it_does_not_take_is_computed_apart(calls, device):
    backward(ASYMMETRIC, (True, True), device)
    assert calls == ["fprop", "dgrad", "wgrad"]


def test_kernels_that_differ_are_called_apart(calls, monkeypatch, device):
    """As a table of measurements may say: one kernel for dgrad, another for wgrad."""
    problem = SYMMETRIC.problem("dgrad")
    both = registry.choose_both(problem, SYMMETRIC.problem("wgrad"), "cuda.counted")
    assert both is not None
    chosen = registry.choose
    monkeypatch.setattr(
        registry, "choose", lambda p, backend: registry.ATEN if p.face == "wgrad" else chosen(p, backend)
    )
    assert registry.choose_both(problem, SYMMETRIC.problem("wgrad"), "cuda.counted") is None


RECORDS = [kernel for kernel in registry.kernels() if kernel.both is not None]


@pytest.mark.parametrize("kernel", RECORDS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", ORDERS)
def test_both_results_agree_with_float64(kernel, dtype, order, geometry, device):
    y, w, x = tensors(geometry, device, dtype, order)
    dgrad = dataclasses.replace(
        geometry.problem("dgrad", dtype),
        channels_last=order in ("channels_last", "y channels_last", "w channels_last"),
        device=torch.device(device).type,
        arch=registry.arch(torch.device(device)) if device != "cpu" else 0,
        precision=settings.fp32_precision() if device != "cpu" and dtype is torch.float32 else "ieee",
    )
    wgrad = dataclasses.replace(dgrad, face="wgrad", channels_last=False)
    if registry.refusal(kernel, dgrad) is not None or kernel.both.why_not(dgrad) is not None:
        return  # computed apart: tested with the faces
    by_x, by_w = kernel.both.run(dgrad, y, w, x)
    found = agreement(dgrad, y, w, None, by_x)
    assert found.ok, f"by x: {found}"
    found = agreement(wgrad, x, y, None, by_w.contiguous())
    assert found.ok, f"by w: {found}"
