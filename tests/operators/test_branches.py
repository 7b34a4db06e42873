"""convext::branches against torch's convolutions, concatenated: values and derivatives to any order, transforms."""

import pytest
import torch
import torch.nn.functional as F
from geometries import channels_last, strided
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from convext.operators.branches import branches
from convext.problem import output_size
from convext.providers.cpu import library

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# x without its batch, groups, stride, then of each branch: channels of y, taps, zeros before and after, dilation
CASES = {
    "1d": ((4, 11), 1, (1,), [(3, (3,), (2,), (2,), (2,)), (2, (2,), (3,), (0,), (3,))]),
    "2d": ((3, 7, 6), 1, (1, 1), [(4, (3, 3), (d, d), (d, d), (d, d)) for d in (1, 2, 4)]),
    "other taps, stride 2": (
        (4, 7, 6), 2, (2, 1),
        [(2, (1, 1), (0, 0), (0, 0), (1, 1)), (6, (3, 2), (1, 0), (1, 1), (1, 1)), (4, (3, 1), (2, 0), (2, 0), (2, 1))],
    ),
    "depthwise": ((3, 6, 7), 3, (1, 1), [(3, (3, 3), (d, d), (d, d), (d, d)) for d in (1, 3)]),
    "3d": ((2, 4, 3, 5), 1, (1, 1, 1), [(2, (3, 1, 3), (d, 0, 1), (d, 0, 1), (d, 1, 1)) for d in (1, 2)]),
    "one branch": ((3, 5, 6), 1, (1, 1), [(2, (3, 3), (2, 2), (2, 2), (2, 2))]),
}  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
KERNELS = ["auto", pytest.param("cpu.branches", marks=pytest.mark.skipif(library.unavailable() is not None, reason=""))]
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def operands(case, dtype=torch.float64, requires_grad=False, batch=2):
    """x, the weights, and a bias for every second branch."""
    shape, groups, _, parts = case
    x = torch.randn(batch, *shape).to(dtype)
    w = [torch.randn(k, shape[0] // groups, *taps).to(dtype) for k, taps, *_ in parts]
    bias = [torch.randn(part[0]).to(dtype) if i % 2 == 0 else None for i, part in enumerate(parts)]
    for t in (x, *w, *bias):
        if t is not None:
            t.requires_grad_(requires_grad)
    return x, w, bias


def tail(case):
    """What the operator takes after the biases and before the kernel's name."""
    shape, groups, stride, parts = case
    sizes = {output_size(shape[1:], taps, stride, begin, end, d) for _, taps, begin, end, d in parts}
    assert len(sizes) == 1
    pad, dilation = ([value for part in parts for value in part[i]] for i in (2, 4))
    return next(iter(sizes)), stride, pad, dilation, groups


def ours(case, x, w, bias, kernel="auto"):
    return branches(x, w, bias, *tail(case), kernel)


def torchs(case, x, w, bias):
    _, groups, stride, parts = case
    conv = CONVS[len(stride)]
    found = []
    for weight, b, (_, _, begin, end, dilation) in zip(w, bias, parts, strict=True):
        pads = [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]
        found.append(conv(F.pad(x, pads), weight, b, stride, 0, dilation, groups))
    return torch.cat(found, 1)


def with_all(call, case):
    """`call(case, ..)` of x, then the weights, then the biases that there are, one after the other."""

    def of(x, *others):
        count = len(case[3])
        given = iter(others[count:])
        return call(case, x, others[:count], [next(given) if i % 2 == 0 else None for i in range(count)])

    return of


def flat(x, w, bias):
    return [x, *w, *(b for b in bias if b is not None)]


def assert_right(y, case, x, w, bias):
    """As near float64 as torch's composition, twice, and two units in the last place."""
    exact = torchs(case, x.double(), [t.double() for t in w], [b if b is None else b.double() for b in bias])
    allowed = 2 * (torchs(case, x, w, bias) - exact).abs().max() + 2 * torch.finfo(y.dtype).eps * exact.abs().max()
    assert y.dtype is x.dtype
    assert y.shape == exact.shape
    assert (y - exact).abs().max() <= allowed


@each_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@each_case
def test_values(case, dtype, kernel):
    """In the memory format of the operands, of any strides."""
    x, w, bias = operands(case, dtype)
    y = ours(case, x, w, bias, kernel)
    assert_right(y, case, x, w, bias)
    assert y.is_contiguous()
    for given in ((channels_last(x), w), (x, [channels_last(w[0]), *w[1:]])):
        if channels_last(given[1][0]).stride() == w[0].stride() and given[0] is x:
            continue  # one tap or one channel: no format of its own
        y = ours(case, *given, bias, kernel)
        assert_right(y, case, *given, bias)
        assert y.movedim(1, -1).is_contiguous()
    given = strided(x), [strided(t) for t in w], [b if b is None else b.repeat_interleave(2)[::2] for b in bias]
    assert_right(ours(case, *given, kernel), case, *given)
    assert_right(ours(case, x, w, [None] * len(w), kernel), case, x, w, [None] * len(w))


@pytest.mark.parametrize("kernel", [*KERNELS, "triton.branches"])
@each_case
def test_first_derivatives_are_torchs(case, kernel):
    """By a gradient that is dense, by a slice of one, and by one of stride 0."""
    x, w, bias = operands(case, requires_grad=True)
    found, expected = ours(case, x, w, bias, kernel), torchs(case, x, w, bias)
    torch.testing.assert_close(found, expected)
    seed = torch.randn_like(found)
    for by in (seed, strided(seed), channels_last(seed), seed.flatten()[0].expand(seed.shape)):
        torch.testing.assert_close(
            *(torch.autograd.grad(y, flat(x, w, bias), by, retain_graph=True) for y in (found, expected))
        )


def test_many_gradients_at_once_and_their_derivatives():
    case = CASES["2d"]
    x, w, bias = operands(case, requires_grad=True)
    wanted, results = flat(x, w, bias), []
    seeds = torch.randn(3, 2, 12, 7, 6, dtype=torch.float64)
    for call in (ours, torchs):
        y = call(case, x, w, bias)
        batched = torch.autograd.grad(y, wanted, seeds, is_grads_batched=True, retain_graph=True)
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        results.append((batched, first, torch.autograd.grad(sum(g.square().sum() for g in first), wanted)))
    torch.testing.assert_close(*results)


def test_one_derivative_at_a_time():
    """By each operand alone; kept is what that needs: the weights for x, x for a weight, nothing for a bias."""
    case = CASES["2d"]
    x, w, bias = operands(case)
    for i, t in enumerate(flat(x, w, bias)):
        t.requires_grad_()
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda saved, kept=kept: kept.append(saved) or saved, lambda t: t
        ):
            found = ours(case, x, w, bias)
        wanted = w if i == 0 else [x] if i <= len(w) else []
        assert [k.data_ptr() for k in kept] == [k.data_ptr() for k in wanted]
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), t),
            torch.autograd.grad(torchs(case, x, w, bias).square().sum(), t),
        )
        t.requires_grad_(False)


@pytest.mark.parametrize("name", ["1d", "other taps, stride 2", "one branch"])
def test_derivatives_by_differences(name):
    case = CASES[name]
    given = flat(*operands(case, requires_grad=True, batch=1))
    assert torch.autograd.gradcheck(with_all(ours, case), given, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(with_all(ours, case), given, fast_mode=True)


@each_case
def test_functional_transforms(case):
    x, w, bias = operands(case)

    def of(call):
        def loss(x, first, b):
            return call(case, x[None], [first, *w[1:]], [b, *bias[1:]]).square().sum()

        first, b = w[0], bias[0]
        tangents = jvp(lambda x, v: call(case, x, [v, *w[1:]], bias), (x, first), (x.cos(), first.sin()))
        others = vmap(lambda v, c: call(case, x, [v, *w[1:]], [c, *bias[1:]]), (1, 0))(
            torch.stack([first, -first], 1), torch.stack([b, -b])
        )
        mapped = vmap(lambda x: call(case, x, w, bias), 2)(torch.stack([x, -x], 2))
        third = grad(lambda v: sum(g.square().sum() for g in grad(loss, (0, 1))(x[0], v, b)))(first)
        return vmap(grad(loss, (0, 1, 2)), (0, None, None))(x, first, b), tangents, others, mapped, third

    torch.testing.assert_close(of(ours), of(torchs))


@pytest.mark.parametrize("format_of", [torch.Tensor.contiguous, channels_last])
def test_opcheck(format_of):
    for name in ("2d", "one branch"):
        x, w, bias = operands(CASES[name], torch.float32, requires_grad=True)
        size, stride, pad, dilation, groups = tail(CASES[name])
        given = format_of(x.detach()).requires_grad_(), w, bias, list(size), list(stride), pad, dilation, groups, "auto"
        torch.library.opcheck(torch.ops.convext.branches.default, given)


@each_kernel
def test_compiles_whole_and_for_any_size(kernel):
    case = CASES["2d"]
    x, w, bias = operands(case, torch.float32, requires_grad=True)

    def call(x):
        return branches(x, w, bias, x.shape[2:], *tail(case)[1:], kernel)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for t in (x, x[:1, :, 1:, 2:]):
        found, expected = compiled(t), torchs(case, t, w, bias)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            *(torch.autograd.grad(y.square().sum(), flat(x, w, bias)) for y in (found, expected)), rtol=1e-4, atol=1e-3
        )


def test_exports():
    case = CASES["2d"]
    x, w, bias = operands(case, torch.float32)

    class Model(torch.nn.Module):
        def forward(self, x):
            return ours(case, x, w, bias)

    program = torch.export.export(Model(), (x,))
    assert any(node.target is torch.ops.convext.branches.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), torchs(case, x, w, bias))


def test_flops_are_the_convolutions():
    case = CASES["other taps, stride 2"]
    tensors = operands(case, torch.float32)
    found = []
    for call in (ours, torchs):
        with FlopCounterMode(display=False) as counter:
            call(case, *tensors)
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_autocast_casts_the_operands():
    case = CASES["2d"]
    x, w, bias = operands(case, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(case, x, w, bias)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), torchs(case, x, w, bias), rtol=0.02, atol=0.1)


@each_kernel
def test_no_images(kernel):
    case = CASES["2d"]
    x, w, bias = operands(case, batch=0, requires_grad=True)
    y = ours(case, x, w, bias, "auto" if kernel == "auto" else "aten")
    assert y.shape == (0, 12, 7, 6)
    assert all(g.eq(0).all() for g in torch.autograd.grad(y.sum(), flat(x, w, bias)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w": []}, RuntimeError, "expected a weight or more|bias or None for each of 0 weights, but got 3"),
        ({"bias": [None]}, RuntimeError, "a bias or None for each of 3 weights, but got 1"),
        ({"pad": [1, 1]}, RuntimeError, r"padding of 2 values for each of 3 branches, but got 2: \[1, 1\]"),
        ({"dilation": [1] * 7}, RuntimeError, "dilation of 2 values for each of 3 branches, but got 7"),
        ({"dilation": [1, 1, 1, 1, 0, 1]}, RuntimeError, r"greater than zero, but got \[0, 1\]|\(0, 1\)"),
        ({"stride": (1,)}, RuntimeError, r"stride to be a list of 2 values, but got \[1\]"),
        ({"x": torch.zeros(2, 5, 7, 6)}, RuntimeError, "to have 3 channels, but got 5 channels instead"),
        ({"x": torch.zeros(2, 3, 7)}, RuntimeError, r"4 dimensions .* but got shapes \[2, 3, 7\]"),
        ({"x": torch.zeros(2, 3, 7, 6).half()}, RuntimeError, "should be the same"),
        ({"bias": [torch.zeros(5), None, None]}, RuntimeError, "1-dimensional with 4 elements"),
        ({"groups": 3}, RuntimeError, "Given groups=3"),
        ({"kernel": "cpu.stencil"}, ValueError, "does not take this problem\n.*\n  cpu.stencil: "),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_mistakes_are_named(change, error, message, requires_grad):
    case = CASES["2d"]
    names = "size", "stride", "pad", "dilation", "groups"
    given = dict(zip(("x", "w", "bias"), operands(case, torch.float32, requires_grad), strict=True))
    given |= dict(zip(names, tail(case), strict=True), kernel="auto")
    for call in (branches, torch.ops.convext.branches):
        with pytest.raises(error, match=message):
            call(*{**given, **change}.values())


@pytest.mark.skipif(library.unavailable() is not None, reason="it is of the kernel for CPUs")
def test_a_kernel_of_all_refuses_by_its_name():
    case = CASES["2d"]
    x, w, bias = operands(case, batch=0)
    with pytest.raises(ValueError, match=r"does not take this problem\n.*\n  cpu.branches: a tensor .* no elements"):
        ours(case, x, w, bias, "cpu.branches")
    x, w, bias = operands(case)
    with pytest.raises(RuntimeError, match="expected bias to be 1-dimensional with 4 elements"):
        ours(case, x, w, [bias[0][1:], *bias[1:]], "cpu.branches")
