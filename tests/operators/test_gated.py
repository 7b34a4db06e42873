"""convext::gated against torch's operators in float64: results, derivatives to any order, transforms, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from convext.operators.gated import gated
from convext.providers.cpu import gated as native
from convext.providers.cpu import library

ISAS = [isa for isa in library.ISAS if not library.unavailable() and torch.ops.convext_cpu.supports(isa)]
CASES = {  # N, C, inner, L, taps, dilation
    "odd": (2, 5, 3, 77, 2, 4),
    "rows beside tiles": (1, 19, 13, 50, 3, 7),
    "tiles": (1, 16, 16, 96, 2, 1),
    "long sums": (1, 40, 24, 49, 3, 16),
    "one tap": (2, 8, 8, 30, 1, 1),
    "one sample": (2, 8, 4, 1, 2, 3),
    "nothing but zeros behind": (1, 4, 4, 20, 2, 512),
    "no signals": (0, 4, 4, 20, 2, 1),
    "no samples": (2, 4, 4, 0, 2, 1),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def torchs(x, weight, bias, mix, mix_bias, total, dilation):
    if x.shape[2] == 0:  # which torch's convolution refuses
        return x, x
    past = F.pad(x, ((weight.shape[2] - 1) * dilation, 0))
    f, g = F.conv1d(past, weight, bias, dilation=dilation).chunk(2, 1)
    z = F.conv1d(torch.tanh(f) * torch.sigmoid(g), mix, mix_bias)
    return x + z, z if total is None else total + z


def operands(case, dtype=torch.float64, requires_grad=False):
    batch, channels, inner, length, taps, _ = case
    shapes = (batch, channels, length), (2 * inner, channels, taps), (2 * inner,), (channels, inner, 1), (channels,)
    return [torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in (*shapes, shapes[0])]


def agree(found, tensors, dilation):
    """At most twice the error of torch's own float32, and two units in the last place."""
    exact = torchs(*(t if t is None else t.double() for t in tensors), dilation)
    for ours, theirs, wanted in zip(found, torchs(*tensors, dilation), exact, strict=True):
        assert ours.shape == wanted.shape
        assert ours.is_contiguous()
        if wanted.numel():
            allowed = 2 * (theirs - wanted).abs().max() + 2 * torch.finfo(ours.dtype).eps * wanted.abs().max()
            assert (ours - wanted).abs().max() <= allowed


@pytest.mark.parametrize("isa", ISAS)
@each_case
def test_results_of_each_instruction_set(case, isa, monkeypatch):
    monkeypatch.setattr(library, "isa", lambda: isa)
    x, weight, bias, mix, mix_bias, total = operands(case, torch.float32)
    for given in ((bias, mix_bias, total), (None, None, None), (bias, None, total)):
        tensors = x, weight, given[0], mix, given[1], given[2]
        agree(native.run(tensors, case[-1]), tensors, case[-1])


@pytest.mark.parametrize("isa", ISAS)
@each_case
def test_a_large_bias_takes_no_digits_from_the_sums(case, isa, monkeypatch):
    """Each term that is added to it is rounded to its last place: it has to be the last one."""
    monkeypatch.setattr(library, "isa", lambda: isa)
    x, weight, bias, mix, mix_bias, total = operands(case, torch.float32)
    tensors = x, weight, bias, mix, 100 * mix_bias, total
    agree(native.run(tensors, case[-1]), tensors, case[-1])


@pytest.mark.parametrize("kernel", ["auto", "aten"])
@each_case
def test_results_of_the_operator(case, kernel):
    tensors = operands(case, torch.float32)
    agree(gated(*tensors, case[-1], kernel), tensors, case[-1])


def test_operands_that_are_not_dense():
    tensors = [
        torch.randn(*t.shape[:-1], 2 * t.shape[-1])[..., ::2].transpose(0, -1).contiguous().transpose(0, -1)
        for t in operands(CASES["odd"], torch.float32)
    ]
    agree(gated(*tensors, 4), tensors, 4)
    expanded = torch.randn(2, 5, 1).expand(2, 5, 77)
    agree(gated(expanded, *tensors[1:5], expanded, 4), (expanded, *tensors[1:5], expanded), 4)


def test_a_nan_stays_where_it_is_read():
    x, *others = operands(CASES["odd"], torch.float32)
    x[0, 1, 40] = float("nan")
    for y in gated(x, *others, 4):
        assert set(y[0, 2].isnan().nonzero().flatten().tolist()) == {40, 44}
        assert not y[1].isnan().any()


@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_threads_gives_the_same_bits(isa, monkeypatch):
    monkeypatch.setattr(library, "isa", lambda: isa)
    tensors, before = operands((3, 24, 24, 500, 2, 8), torch.float32), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(native.run(tensors, 8))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, z) for other in results[1:] for y, z in zip(other, results[0], strict=True))


SMALL = (2, 3, 2, 6, 2, 2)


@pytest.mark.parametrize("some", [(0, 1, 2, 3, 4, 5), (0,), (1, 4), (3,), (5,)])
def test_first_derivatives_are_torchs(some):
    tensors = operands(SMALL)
    wanted = [tensors[i].requires_grad_() for i in some]
    seeds = torch.randn(2, *tensors[0].shape, dtype=torch.float64)
    for first in (0, 1) if some != (5,) else (1,):  # by both results, and by the second
        found, expected = (
            torch.autograd.grad(call(*tensors, 2)[first:], wanted, list(seeds[first:])) for call in (gated, torchs)
        )
        torch.testing.assert_close(found, expected)


def test_gradcheck_and_gradgradcheck():
    tensors = operands((1, 2, 2, 4, 2, 1), requires_grad=True)
    for given in (tensors, [*tensors[:2], None, tensors[3], None, None]):
        torch.autograd.gradcheck(lambda *t: gated(*t, 1), given, check_forward_ad=True)
        torch.autograd.gradgradcheck(lambda *t: gated(*t, 1), given)


def test_functional_transforms():
    x, weight, bias, mix, mix_bias, total = operands(SMALL)

    def of(call):
        def loss(x, weight):
            first, second = call(x[None], weight, bias, mix, mix_bias, total[:1], 2)
            return (first * second).sum()

        return (
            vmap(grad(loss, (0, 1)), (0, None))(x, weight),
            grad(lambda w: vmap(loss, (0, None))(x, w).prod())(weight),
            jvp(lambda w, x: call(x, w, bias, mix, mix_bias, None, 2), (weight, x), (weight.cos(), x.sin())),
            vmap(lambda b, t: call(x, weight, bias, mix, b, t, 2), (0, 1))(
                torch.stack([mix_bias] * 2), torch.stack([total, -total], 1)
            ),
        )  # fmt: skip

    torch.testing.assert_close(of(gated), of(torchs))


def test_opcheck():
    tensors = operands(SMALL, torch.float32, requires_grad=True)
    torch.library.opcheck(torch.ops.convext.gated.default, (*tensors, 2, "auto"))
    x, weight, _, mix, _, _ = operands(SMALL, torch.bfloat16)
    x = x.mT.contiguous().mT
    given = x, weight, None, mix, None, None, 2, "auto"
    torch.library.opcheck(torch.ops.convext.gated.default, given, test_utils=("test_schema", "test_faketensor"))


def test_compiles_whole_and_counts_flops():
    tensors = operands(SMALL)
    compiled = torch.compile(lambda *t: torch.ops.convext.gated(*t, 2, "auto"), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), torchs(*tensors, 2))
    with FlopCounterMode(display=False) as counter:
        torch.ops.convext.gated(*tensors, 2, "auto")
    assert counter.get_total_flops() == 2 * 2 * 6 * (4 * 3 * 2 + 3 * 2)


def test_autocast_computes_in_its_dtype():
    tensors = operands(SMALL, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert [y.dtype for y in torch.ops.convext.gated(*tensors, 2, "auto")] == [torch.bfloat16] * 2


def test_what_is_refused():
    x, weight, bias, mix, mix_bias, total = operands(SMALL)
    for wrong in (
        (x[0], weight, bias, mix, mix_bias, total, 2),
        (x, weight[:3], bias, mix, mix_bias, total, 2),
        (x, weight[..., :0], bias, mix, mix_bias, total, 2),
        (x, weight, bias[:3], mix, mix_bias, total, 2),
        (x, weight, bias, mix[:, :1], mix_bias, total, 2),
        (x, weight, bias, mix, mix_bias, total[:1], 2),
        (x, weight.float(), bias, mix, mix_bias, total, 2),
        (x, weight, bias, mix, mix_bias, total, 0),
    ):
        with pytest.raises(RuntimeError, match=r"gated: expected .* but got"):
            gated(*wrong)
    with pytest.raises(ValueError, match="cpu"):
        gated(x, weight, bias, mix, mix_bias, total, 2, "cpu.stencil")
    assert "float64" in native.why_not((x, weight, bias, mix, mix_bias, total))
