"""Values, states and gradients of every provider against float64, sequence by sequence."""

import pytest
import torch
from causal_problems import ACTIVATIONS, FLOATS, LAYOUTS, assert_near, in_layout, oracle, seq_idx_of
from torch import Tensor

from convext.causal_conv1d import causal_conv1d_fn


def draw(batch, channels, length, width, dtype=torch.float32, w_dtype=None, dilation=1, rows=None):
    """x, w, bias and states; rounded to their dtypes, so that an oracle sees the same numbers."""
    x = torch.randn(batch, channels, length).to(dtype)
    w, bias = (torch.randn(shape).to(w_dtype or dtype) for shape in ((channels, width), (channels,)))
    return x, w, bias, torch.randn(rows or batch, channels, (width - 1) * dilation).to(dtype)


def few(provider: str, layout: str, channels: int) -> int:
    """Where positions are innermost, each channel is a program, and Triton's interpreter runs them one by one."""
    return 3 if provider == "triton" and layout != "channels" else channels


def leaves(tensors):
    """Copies that want gradients, with their strides."""
    return [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]


def check(x, w, bias, states, lengths, *, layout="length", activation="silu", dilation=1, residual=None, **where):
    """Values, final states and gradients of one call."""
    packed = "cu_seqlens" in where
    exact = [t if t is None else t.double().requires_grad_() for t in (x, w, bias, states, residual)]
    y, final = oracle(
        *exact[:4], lengths=lengths, dilation=dilation, activation=activation, residual=exact[4], packed=packed
    )
    upstream = torch.randn(y.shape).to(x.dtype)
    upstream_of_states = torch.randn(final.shape).to(x.dtype)
    wanted = [t for t in exact if t is not None]
    loss = (y * upstream.double()).sum() + (final * upstream_of_states.double()).sum()
    by_exact = torch.autograd.grad(loss, wanted, allow_unused=True)

    x = in_layout(x, layout)
    ours = [t if t is None else t.detach().requires_grad_() for t in (x, w, bias, states, residual)]
    result, result_final = causal_conv1d_fn(
        *ours[:3], initial_states=ours[3], return_final_states=True, activation=activation,
        residual=ours[4], dilation=dilation, **where,
    )  # fmt: skip
    width = w.shape[1]
    assert_near(result, y.detach(), x.dtype, 8 * width)
    assert torch.equal(result_final.double(), final.detach())
    loss = (result * upstream).sum() + (result_final * upstream_of_states).sum()
    by_ours = torch.autograd.grad(loss, [t for t in ours if t is not None], allow_unused=True)
    for t, a, b in zip(wanted, by_ours, by_exact, strict=True):
        count = 8 * width if t.dim() == 3 else 8 * x.shape[0] * x.shape[2]
        assert (a is None) == (b is None) or b.eq(0).all()
        if a is not None and b is not None:
            assert a.shape == b.shape
            assert_near(a, b, a.dtype, count)


def whole(batch: int, length: int) -> list[list[int]]:
    return [[length]] * batch


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 31])
def test_widths_and_lengths(provider, width, layout):
    for length in sorted({1, width, 4 * width, 37}) if provider == "triton" else range(1, 4 * width + 2):
        x, w, bias, states = draw(2, few(provider, layout, 19), length, width)
        check(x, w, bias, states if length % 3 else None, whole(2, length), layout=layout)


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
    check(*draw(2, few(provider, layout, 33), 29, 4, dtype, w_dtype), whole(2, 29), layout=layout)


@pytest.mark.parametrize("layout", ["length", "channels"])
@pytest.mark.parametrize(("width", "dilation"), [(2, 3), (3, 2), (4, 5), (5, 16)])
def test_dilation(provider, width, dilation, layout):
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

    for a, b in zip(run(1), run(2), strict=True):
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
