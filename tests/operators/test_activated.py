"""convext::activated against torch's convolution and activation: derivatives to any order, transforms, memory."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from convext.operators.activated import activated
from convext.problem.epilogue import NAMES, Epilogue
from convext.providers.cpu import library

TORCHS = {
    ("identity", ()): lambda z: z,
    ("silu", ()): F.silu,
    ("gelu", ()): F.gelu,
    ("relu", ()): F.relu,
    ("leaky_relu", (0.3,)): lambda z: F.leaky_relu(z, 0.3),
    ("leaky_relu", (-0.3,)): lambda z: F.leaky_relu(z, -0.3),
    ("clamp", (-0.5, 0.7)): lambda z: z.clamp(-0.5, 0.7),
    ("hardswish", ()): F.hardswish,
    ("hardsigmoid", ()): lambda z: (z / 6 + 0.5).clamp(0, 1),  # torch derives its own but once
    ("gelu_tanh", ()): lambda z: F.gelu(z, approximate="tanh"),
    ("sigmoid", ()): torch.sigmoid,
    ("tanh", ()): torch.tanh,
}
GEOMETRY = ((2, 1), (1, 0), (1, 2), 4)  # stride, padding, dilation, groups
KERNELS = ["aten", *(["cpu"] if library.unavailable() is None else [])]
each_activation = pytest.mark.parametrize("which", TORCHS, ids=str)
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
each_face = pytest.mark.parametrize("face", ["fprop", "dgrad"])


def torchs(face, which, a, w, bias, residual):
    stride, padding, dilation, groups = GEOMETRY
    conv = F.conv2d(a, w, bias, stride, padding, dilation, groups) if face == "fprop" else F.conv_transpose2d(
        a, w, bias, stride, padding, 0, groups, dilation
    )  # fmt: skip
    y = TORCHS[which](conv)
    return y if residual is None else y + residual


def ours(face, which, kernel, a, w, bias, residual):
    size = {"fprop": (3, 3), "dgrad": (5, 7)}[face]
    return activated(face, a, w, bias, residual, size, *GEOMETRY, kernel, *which)


def operands(face, dtype=torch.float64, requires_grad=True):
    a, y = ((2, 4, 5, 7), (2, 4, 3, 3)) if face == "fprop" else ((2, 4, 3, 3), (2, 4, 5, 7))
    shapes = a, (4, 1, 3, 3), (4,), y
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in shapes]


def test_every_activation_is_tried():
    assert {name for name, _ in TORCHS} == set(NAMES)


@each_face
@each_kernel
@each_activation
def test_first_derivatives_are_torchs(which, kernel, face):
    tensors = operands(face)
    for given in (tensors, [*tensors[:3], None], [tensors[0], tensors[1].detach(), None, None]):
        wanted = [t for t in given if t is not None and t.requires_grad]
        found = ours(face, which, kernel, *given)
        expected = torchs(face, which, *given)
        torch.testing.assert_close(found, expected)
        seed = torch.randn_like(found)
        torch.testing.assert_close(
            torch.autograd.grad(found, wanted, seed), torch.autograd.grad(expected, wanted, seed)
        )


@each_face
@each_activation
def test_second_and_third_derivatives_are_torchs(which, face):
    tensors = operands(face)
    found = []
    for y in (ours(face, which, KERNELS[-1], *tensors), torchs(face, which, *tensors)):
        for _ in range(3):
            grads = torch.autograd.grad(y.pow(3).sum(), tensors[:3], create_graph=True, materialize_grads=True)
            y = torch.cat([g.flatten() for g in grads])
        found.append(grads)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@each_activation
def test_functional_transforms(which):
    a, w, bias, residual = operands("fprop", requires_grad=False)

    def of(call):
        def loss(a, w, bias):
            return call(a[None], w, bias, residual[:1]).square().sum()

        tangents = jvp(lambda w: call(a, w, bias, residual), (w,), (w.cos(),))
        residuals = torch.stack([residual, -residual], 2)
        mapped = vmap(call, (None, None, None, 2))(a, w, bias, residuals)
        both = vmap(call, (0, None, None, 2))(torch.stack([a, -a]), w, bias, residuals)
        return vmap(grad(loss, (0, 1, 2)), (0, None, None))(a, w, bias), vmap(loss, (None, None, 0))(
            a[0], w, torch.stack([bias, -bias])
        ), tangents, mapped, both  # fmt: skip

    kernel = KERNELS[-1]
    found = of(lambda *t: ours("fprop", which, kernel, *t))
    torch.testing.assert_close(found, of(lambda *t: torchs("fprop", which, *t)))


@each_kernel
def test_opcheck(kernel):
    a, w, bias, residual = operands("fprop", torch.float32)
    for tensors in ((a, w, bias, residual), (a.contiguous(memory_format=torch.channels_last), w, None, None)):
        for name, scalars in (("silu", []), ("clamp", [0.0, 6.0])):
            torch.library.opcheck(
                torch.ops.convext.activated.default,
                ("fprop", *tensors, [3, 3], *map(list, GEOMETRY[:3]), 4, kernel, name, scalars),
            )


def test_compiles_whole():
    tensors = operands("fprop", torch.float32)
    call = torch.compile(lambda *t: ours("fprop", ("silu", ()), KERNELS[-1], *t), fullgraph=True, backend="aot_eager")
    found, expected = call(*tensors), torchs("fprop", ("silu", ()), *tensors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), tensors) for y in (found, expected)))


def test_flops_are_the_convolutions():
    a, w, bias, _ = operands("fprop", torch.float32, requires_grad=False)
    found = []
    for call in (ours, torchs):
        with FlopCounterMode(display=False) as counter:
            call("fprop", ("silu", ()), *([KERNELS[-1]] if call is ours else []), a, w, bias, None)
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_autocast_casts_the_operands():
    tensors = operands("fprop", torch.float32, requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours("fprop", ("relu", ()), KERNELS[-1], *tensors)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), torchs("fprop", ("relu", ()), *tensors), rtol=0.02, atol=0.05)


def saved_for(which, residual):
    kept = []
    tensors = operands("fprop")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = ours("fprop", which, KERNELS[-1], *tensors[:3], tensors[3] if residual else None)
    return [t.data_ptr() for t in kept], y.data_ptr(), [t.data_ptr() for t in tensors]


def test_what_is_kept_for_a_backward():
    """The result, which others keep too, where the derivative is a function of it; else nothing but the operands."""
    kept, y, (x, w, bias, _) = saved_for(("relu", ()), residual=False)
    assert sorted(kept) == sorted([x, w, y])
    for which, residual in ((("relu", ()), True), (("silu", ()), False), (("clamp", (0.0, 6.0)), False)):
        kept, y, (x, w, bias, _) = saved_for(which, residual)
        assert sorted(kept) == sorted([x, w, bias])


def allocations(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    events = profile.profiler.kineto_results.events()
    return result, [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


@pytest.mark.skipif(library.unavailable() is not None, reason="the kernels for CPUs are what needs no other tensor")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_result_is_all_that_is_allocated(memory_format):
    x = torch.randn(2, 32, 20, 20).contiguous(memory_format=memory_format)
    w, bias, residual = torch.randn(32, 1, 3, 3), torch.randn(32), torch.randn_like(x)
    geometry = (20, 20), (1, 1), (1, 1), (1, 1), 32
    for kernel, expected in (("cpu.stencil", [x.nbytes]),):
        y, made = allocations(lambda kernel=kernel: activated("fprop", x, w, bias, residual, *geometry, kernel, "silu"))
        assert [n for n in made if n >= x.nbytes // 8] == expected
        assert y.stride() == x.stride()


@each_kernel
def test_empty_tensors(kernel):
    x, w = torch.randn(0, 4, 5, 7), torch.randn(4, 1, 3, 3)
    if kernel == "cpu":
        with pytest.raises(ValueError, match="no elements"):
            ours("fprop", ("silu", ()), kernel, x, w, None, None)
    else:
        assert ours("fprop", ("silu", ()), kernel, x, w, None, torch.randn(0, 4, 3, 3)).shape == (0, 4, 3, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"which": ("swish", ())}, ValueError, "activation must be one of identity, .*, but got 'swish'"),
        ({"which": ("clamp", (1.0,))}, ValueError, r"clamp takes 2 scalars, but got \\[1.0\\]"),
        ({"residual": torch.zeros(2, 4, 3)}, RuntimeError, r"result's shape \\[2, 4, 3, 3\\].* but got \\[2, 4, 3\\]"),
        ({"residual": torch.zeros(2, 4, 3, 3).half()}, RuntimeError, "torch.float32 on cpu, but got .*torch.float16"),
        ({"bias": torch.zeros(3)}, RuntimeError, "expected bias to be 1-dimensional with 4 elements"),
    ],
)
def test_mistakes_are_named(change, error, message):
    a, w, bias, residual = operands("fprop", torch.float32, requires_grad=False)
    given = {"which": ("silu", ()), "kernel": "aten", "a": a, "w": w, "bias": bias, "residual": residual, **change}
    with pytest.raises(error, match=message.replace("\\\\", "\\")):
        ours("fprop", *given.values())


def test_an_epilogues_result_gives_the_derivative_where_it_says_so():
    """torch's derivative at z, from the result at z."""
    z = torch.randn(100, dtype=torch.float64, requires_grad=True)
    for name, scalars in TORCHS:
        epilogue = Epilogue(name, scalars)
        if epilogue.derives_from_result:
            y = TORCHS[name, scalars](z)
            (expected,) = torch.autograd.grad(y.sum(), z)
            torch.testing.assert_close(epilogue.gradient(torch.ones_like(z), y), expected)
