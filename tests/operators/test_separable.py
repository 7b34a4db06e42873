"""convext::separable against torch's two convolutions: values and derivatives to any order, transforms, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from convext.operators.separable import separable
from convext.providers.cpu import library

ACTIVATIONS = {"silu": F.silu, "relu": torch.relu, "identity": lambda z: z, "clamp": lambda z: z.clamp(0.0, 6.0)}
CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# input, taps, stride, padding, dilation, the size of t; the multiplier is 2 in one dimension
GEOMETRIES = {
    1: ((9,), (3,), (2,), (2,), (2,), (5,)),
    2: ((5, 7), (3, 2), (2, 1), (1, 0), (1, 2), (3, 5)),
    3: ((3, 4, 5), (2, 1, 3), (1, 2, 1), (0, 1, 1), (1, 1, 1), (2, 3, 5)),
}


def operands(rank=2, dtype=torch.float64, requires_grad=True, channels=4, k=3):
    input, taps, *_, size = GEOMETRIES[rank]
    between = channels * (2 if rank == 1 else 1)
    shapes = (
        (2, channels, *input), (between, 1, *taps), (between,), (k, between, *[1] * rank), (k,), (2, k, *size),
    )  # fmt: skip
    return [torch.randn(shape).to(dtype).requires_grad_(requires_grad) for shape in shapes]


def scalars(name):
    return (0.0, 6.0) if name == "clamp" else ()


def ours(x, w, bias, v, second_bias, residual, first="silu", second="relu", kernel="aten"):
    _, _, *geometry, size = GEOMETRIES[x.dim() - 2]
    named = first, scalars(first), second, scalars(second)
    return separable(x, w, bias, v, second_bias, residual, size, *geometry, kernel, *named)


def torchs(x, w, bias, v, second_bias, residual, first="silu", second="relu"):
    _, _, stride, padding, dilation, _ = GEOMETRIES[x.dim() - 2]
    conv = CONVS[x.dim() - 2]
    t = ACTIVATIONS[first](conv(x, w, bias, stride, padding, dilation, x.shape[1]))
    y = ACTIVATIONS[second](conv(t, v, second_bias))
    return y if residual is None else y + residual


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_values(rank, dtype):
    """In the memory format that torch's have; as near float64 as torch's composition."""
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    for first, second in (("silu", "relu"), ("clamp", "identity")):
        tensors = operands(rank, dtype, requires_grad=False)
        for given in (tensors, [*tensors[:2], None, tensors[3], None, None]):
            exact = torchs(*(t if t is None else t.double() for t in given), first, second)
            allowed = 2 * (torchs(*given, first, second) - exact).abs().max()
            allowed += 2 * torch.finfo(dtype).eps * exact.abs().max()
            y = ours(*given, first, second)
            assert (y - exact).abs().max() <= allowed
            assert y.is_contiguous()
            assert y.dtype is dtype
            if rank > 1:
                x = given[0].contiguous(memory_format=formats[rank])
                y = ours(x, *given[1:], first, second)
                assert (y - exact).abs().max() <= allowed
                assert y.is_contiguous(memory_format=formats[rank])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_first_derivatives_are_torchs(rank):
    tensors = operands(rank)
    for given in (tensors, [*tensors[:5], None], [tensors[0].detach(), *tensors[1:2], None, tensors[3], None, None]):
        for first, second in (("silu", "relu"), ("clamp", "silu")):
            wanted = [t for t in given if t is not None and t.requires_grad]
            found, expected = ours(*given, first, second), torchs(*given, first, second)
            torch.testing.assert_close(found, expected)
            seed = torch.randn_like(found)
            torch.testing.assert_close(
                torch.autograd.grad(found, wanted, seed), torch.autograd.grad(expected, wanted, seed)
            )


def test_one_derivative_at_a_time():
    """By each operand alone, and by the residual alone, for which nothing is kept."""
    tensors = operands(requires_grad=False)
    for i, t in enumerate(tensors):
        t.requires_grad_()
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved, kept=kept: kept.append(saved) or saved, lambda t: t
        ):
            found = ours(*tensors)
        assert bool(kept) == (i < 5)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), t), torch.autograd.grad(torchs(*tensors).square().sum(), t)
        )
        t.requires_grad_(False)


def test_derivatives_by_differences():
    def call(x, w, bias, v, second_bias, residual):
        return ours(x, w, bias, v, second_bias, residual, "silu", "silu")

    tensors = [t[:1, :, :3, :4].detach().requires_grad_() if t.dim() == 4 and t.shape[2] > 3 else t for t in operands()]
    tensors[5] = torch.randn(1, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    tensors[0] = torch.randn(1, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_functional_transforms():
    x, w, bias, v, second_bias, residual = operands(requires_grad=False)

    def of(call):
        def loss(x, w, v):
            return call(x[None], w, bias, v, second_bias, residual[:1]).square().sum()

        tangents = jvp(lambda w, v: call(x, w, bias, v, second_bias, residual), (w, v), (w.cos(), v.sin()))
        residuals = torch.stack([residual, -residual], 2)
        mapped = vmap(call, (None, None, None, None, None, 2))(x, w, bias, v, second_bias, residuals)
        xs, vs = torch.stack([x, -x], 1), torch.stack([v, v.cos()])
        both = vmap(call, (1, None, None, 0, None, None))(xs, w, bias, vs, second_bias, residual)
        third = grad(lambda w: sum(g.square().sum() for g in grad(loss, (1, 2))(x[0], w, v)))(w)
        return vmap(grad(loss, (0, 1, 2)), (0, None, None))(x, w, v), tangents, mapped, both, third

    torch.testing.assert_close(of(ours), of(torchs))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(memory_format):
    x, w, bias, v, second_bias, residual = operands(dtype=torch.float32)
    _, _, *geometry, size = GEOMETRIES[2]
    for tensors, first, second in (
        ((w, bias, v, second_bias, residual), "silu", "clamp"),
        ((w, None, v, None, None), "clamp", "identity"),
    ):
        torch.library.opcheck(
            torch.ops.convext.separable.default,
            (x.contiguous(memory_format=memory_format), *tensors, list(size), *map(list, geometry), "auto",
             first, list(scalars(first)), second, list(scalars(second))),
        )  # fmt: skip


def test_compiles_whole():
    tensors = operands(dtype=torch.float32)
    found = torch.compile(ours, fullgraph=True, backend="aot_eager")(*tensors)
    expected = torchs(*tensors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), tensors) for y in (found, expected)))


def test_compiles_for_any_size():
    x, w, bias, v, second_bias, _ = operands(dtype=torch.float32, requires_grad=False)

    def call(x):
        size = x.shape[2], x.shape[3] + 1
        return separable(x, w, bias, v, second_bias, None, size, (1, 1), (1, 1), (1, 2), "aten", "silu", (), "relu", ())

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for t in (x, x[:1, :, 1:, 2:]):
        torch.testing.assert_close(compiled(t), call(t))


def test_flops_are_the_convolutions():
    tensors = operands(dtype=torch.float32, requires_grad=False)
    found = []
    for call in (ours, torchs):
        with FlopCounterMode(display=False) as counter:
            call(*tensors)
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_autocast_casts_the_operands():
    tensors = operands(dtype=torch.float32, requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(*tensors)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), torchs(*tensors), rtol=0.02, atol=0.1)


def test_empty_tensors():
    tensors = operands(requires_grad=False)
    tensors[0], tensors[5] = tensors[0][:0], tensors[5][:0]
    assert ours(*tensors).shape == (0, 3, 3, 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"first": "swish"}, ValueError, "activation must be one of identity, .*, but got 'swish'"),
        ({"v": torch.zeros(3, 4, 1, 2)}, RuntimeError, r"one tap, but got v of size \[3, 4, 1, 2\]"),
        ({"v": torch.zeros(3, 5, 1, 1)}, RuntimeError, "to have 5 channels, but got 4 channels instead"),
        ({"w": torch.zeros(4, 2, 3, 2)}, RuntimeError, "to have 8 channels, but got 4 channels instead"),
        ({"residual": torch.zeros(2, 3, 3)}, RuntimeError, r"result's shape \[2, 3, 3, 5\].* but got \[2, 3, 3\]"),
        ({"second_bias": torch.zeros(4)}, RuntimeError, "expected bias to be 1-dimensional with 3 elements"),
        ({"v": torch.zeros(3, 4, 1, 1).half()}, RuntimeError, "should be the same"),
        ({"kernel": "cpu.separable"}, ValueError, "does not take this problem\n.*\n  cpu.separable: "),
    ],
)
def test_mistakes_are_named(change, error, message):
    names = "x", "w", "bias", "v", "second_bias", "residual"
    given = dict(zip(names, operands(dtype=torch.float32, requires_grad=False), strict=True))
    with pytest.raises(error, match=message):
        ours(**{**given, **change})


@pytest.mark.skipif(library.unavailable() is not None, reason="it is of the kernel for CPUs")
def test_a_kernels_derivatives_are_those_of_the_halves():
    """The kernel computes the forward, whose name no half has: its derivatives come from what "auto" takes."""
    tensors = [t.float().detach() for t in operands(channels=16, k=17)]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors = [t.requires_grad_() for t in tensors]
    found, expected = ours(*tensors, kernel="cpu.separable"), torchs(*tensors)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    seed = torch.randn_like(found)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, tensors, seed) for y in (found, expected)), rtol=1e-4, atol=1e-4
    )
