"""Values, states and gradients of every provider against float64, sequence by sequence."""

import pytest
import torch
import torch.nn.functional as F
from causal_problems import ACTIVATIONS, FLOATS, LAYOUTS, check, draw, in_layout, seq_idx_of, whole
from endings import assert_added_last
from torch import Tensor

from convext.causal_conv1d import causal_conv1d_fn


def few(provider: str, layout: str, channels: int) -> int:
    """Where positions are innermost, each channel is a program, and Triton's interpreter runs them one by one."""
    return 2 if provider == "triton" and layout != "channels" else channels


def refuses(provider: str, width: int, dilation: int = 1) -> bool:
    """Whether the taps span more than the kernel keeps; then it is asked, and has to say so."""
    span = (width - 1) * dilation
    if provider != "triton" or span <= 16:
        return False
    with pytest.raises(ValueError, match=f"keeps the 16 positions before its own, and these taps span {span}"):
        causal_conv1d_fn(torch.randn(1, 2, 3), torch.randn(2, width), dilation=dilation)
    return True


def leaves(tensors):
    """Copies that want gradients, with their strides."""
    return [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 31])
def test_widths_and_lengths(provider, width, layout):
    if refuses(provider, width):
        return
    for length in sorted({1, width, 4 * width + 1}) if provider == "triton" else range(1, 4 * width + 2):
        x, w, bias, states = draw(2, few(provider, layout, 19), length, width)
        check(x, w, bias, states if length % 3 else None, whole(2, length), layout=layout)


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("width", [4, 16, 31])
def test_a_large_bias_is_added_last(provider, width, layout):
    if provider == "aten":
        pytest.skip("torch's kernels may begin with it")
    if refuses(provider, width):
        return
    x, w, bias, _ = draw(2, few(provider, layout, 40), 300, width)
    x, bias = in_layout(x, layout), 1000 * bias
    sums = F.conv1d(F.pad(x.double(), (width - 1, 0)), w.double()[:, None], groups=len(w))
    assert_added_last(causal_conv1d_fn(x, w, bias), sums, bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_every_layout(provider, activation, layout):
    x, w, bias, states = draw(2, few(provider, layout, 21), 45, 4)
    check(x, w, bias, states, whole(2, 45), layout=layout, activation=activation, residual=torch.randn_like(x))
    check(x, w, None, None, whole(2, 45), layout=layout, activation=activation)


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("w_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mixed_dtypes(provider, dtype, w_dtype, layout):
    if provider != "aten" and w_dtype == torch.float64 and dtype != torch.float64:
        with pytest.raises(ValueError, match="float64"):
            causal_conv1d_fn(torch.randn(1, 2, 3).to(dtype), torch.randn(2, 4).double())
        return
    x, w, bias, states = draw(2, few(provider, layout, 33), 29, 4, dtype, w_dtype)
    for bias_dtype in {w_dtype} if provider == "triton" else {w_dtype, dtype, torch.float32}:
        check(x, w, bias.to(bias_dtype), states, whole(2, 29), layout=layout)


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize(("width", "dilation"), [(2, 3), (3, 2), (4, 5), (5, 16)])
def test_dilation(provider, width, dilation, layout):
    if refuses(provider, width, dilation):
        return
    for length in (3, 40):
        x, w, bias, states = draw(2, few(provider, layout, 18), length, width, dilation=dilation)
        check(x, w, bias, states, whole(2, length), layout=layout, dilation=dilation)


# Sequences shorter than the kernel, padding at the end, and one that fills its row.
LENGTHS = {
    "short": [[1, 2, 3, 1, 8, 2], [17], [5, 6]],
    "long": [[20, 33, 2], [1, 50], [55]],
    "all padding": [[4], [0], [9]],
}


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize(("width", "dilation"), [(4, 1), (3, 2), (2, 1), (1, 1), (7, 1)])
def test_seq_idx(provider, case, layout, width, dilation):
    lengths = LENGTHS[case]
    length = max(map(sum, lengths))
    x, w, bias, states = draw(3, few(provider, layout, 18), length, width, dilation=dilation)
    seq_idx = seq_idx_of(lengths, length)
    check(x, w, bias, None, lengths, layout=layout, seq_idx=seq_idx, dilation=dilation)
    check(x, w, bias, states, lengths, layout=layout, seq_idx=seq_idx.long(), dilation=dilation)


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("lengths", [[1, 2, 3, 1, 0, 8, 2], [70], [40, 1, 33], [0, 0, 5]], ids=str)
@pytest.mark.parametrize(("width", "dilation"), [(4, 1), (3, 3), (2, 1)])
def test_packed_batches(provider, lengths, layout, width, dilation):
    length, count = sum(lengths), len(lengths)
    x, w, bias, states = draw(1, few(provider, layout, 18), length, width, dilation=dilation, rows=count)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    check(x, w, bias, None, [lengths], layout=layout, cu_seqlens=cu_seqlens, dilation=dilation)
    check(x, w, bias, states, [lengths], layout=layout, cu_seqlens=cu_seqlens.int(), dilation=dilation)


@pytest.mark.parametrize("layout", ["length", "channels"])
def test_what_is_no_number_stays_where_it_is(provider, layout):
    """In its channel and its sequence: not in others, whose windows may lie where it lay, and not out of padding."""
    lengths = [[7, 3, 30], [12, 9]]
    x, w, bias, _ = draw(2, 5, 40, 4)
    x[:, 1, :] = torch.inf
    x[1, :, 21:] = torch.nan
    t = leaves((in_layout(x, layout), w, bias))
    y = causal_conv1d_fn(*t, seq_idx=seq_idx_of(lengths, 40), activation="silu")
    by = torch.autograd.grad(y, t, torch.ones_like(y))
    others = [0, 2, 3, 4]
    for values in (y[:, others], by[0][:, others], by[1][others], by[2][others], y[1, :, 21:], by[0][1, :, 21:]):
        assert values.isfinite().all()


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_activations_at_the_ends_of_their_range(provider, activation, dtype, layout):
    """As torch has them in float64, of infinities and NaN too; derivatives of what is finite. Of numbers near
    infinity torch's own gelu in float32 is NaN or not by the path it takes."""
    ends = [1e-30, 0.5, 5.0, 20.0, 87.0, 87.5, 88.2, 88.6, 89.5, 104.0, 1e3, 3e38, torch.inf]
    z = torch.tensor([0.0, *ends, *(-end for end in ends), torch.nan]).to(dtype)
    z = z[~(z.abs() > 1e30)] if activation == "gelu" else z
    z = z[-few(provider, layout, len(z)) :]
    x, w = torch.zeros(1, len(z), 9, dtype=dtype), torch.ones(len(z), 4, dtype=dtype)
    bias, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    y = causal_conv1d_fn(in_layout(x, layout), w, bias, activation=activation)
    expected = getattr(torch.nn.functional, activation)(exact)
    unit = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y[0], expected[:, None].expand(-1, 9).to(dtype), rtol=unit, atol=unit, equal_nan=True)
    (by_bias,) = torch.autograd.grad(y.sum(), bias)
    (slope,) = torch.autograd.grad(9 * expected.sum(), exact)
    finite = z.isfinite()
    torch.testing.assert_close(by_bias[finite], slope[finite].to(dtype), rtol=4 * unit, atol=4 * unit)


@pytest.mark.parametrize("layout", ["length", "channels"])
def test_long_rows_take_many_blocks(provider, layout):
    x, w, bias, states = draw(1, few(provider, layout, 300), 1500 if provider == "triton" else 3001, 4)
    check(x, w, bias, states, whole(1, x.shape[2]), layout=layout)


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7), (2, 5, 0)], ids=str)
def test_nothing_to_do(provider, shape):
    x, w, bias, states = draw(*shape, 4)
    y, final = causal_conv1d_fn(x.requires_grad_(), w.requires_grad_(), bias, None, states, True, activation="silu")
    y.sum().backward()
    assert y.shape == shape
    assert final.shape == (shape[0], shape[1], 3)
    assert torch.equal(w.grad, torch.zeros_like(w))
    assert x.grad.shape == shape


def test_results_lie_as_x_does(provider):
    x, w, bias, _ = draw(2, 6, 9, 4)
    for layout in ("length", "channels"):
        t = in_layout(x, layout).requires_grad_()
        y = causal_conv1d_fn(t, w, bias)
        assert y.stride() == in_layout(x, layout).stride()
        assert torch.autograd.grad(y.sum(), t)[0].stride() == y.stride()


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("provider", ["cpu", "triton"], indirect=True)
def test_the_same_bits_every_time(provider, layout):
    """Whatever the number of threads."""
    x, w, bias, _ = draw(2, few(provider, layout, 40), 300, 4)
    t = leaves((in_layout(x, layout), w, bias))

    def run(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            y = causal_conv1d_fn(*t, activation="silu")
            return [y, *torch.autograd.grad(y.square().sum(), t)]
        finally:
            torch.set_num_threads(before)

    first = run(1)
    for threads in (1, 2, 7):
        for a, b in zip(run(threads), first, strict=True):
            assert torch.equal(a, b)


def test_only_what_is_wanted_has_a_gradient(provider):
    x, w, bias, _ = draw(2, 6, 9, 4)
    w.requires_grad_()
    (by_w,) = torch.autograd.grad(causal_conv1d_fn(x, w, bias, activation="silu").sum(), w)
    assert by_w.shape == w.shape


def test_final_states_are_written_where_they_are_wanted(provider):
    x, w, _, _ = draw(2, 6, 9, 4)
    out = torch.empty(2, 6, 3)
    _, final = causal_conv1d_fn(x, w, return_final_states=True, final_states_out=out)
    assert final is out
    assert torch.equal(out, x[:, :, -3:])
