"""Steps from element to element against whole sequences, and mistakes that leave states as they are."""

import pytest
import torch
from causal_problems import FLOATS, assert_near, oracle

from convext.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states


def state_in(layout: str, state: torch.Tensor) -> torch.Tensor:
    if layout == "channels":
        return state.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "part of a cache":
        cache = torch.full((state.shape[0], state.shape[1] + 2, state.shape[2] + 1), torch.nan, dtype=state.dtype)
        return cache[:, 1:-1, 1:].copy_(state)
    return state.contiguous()


@pytest.mark.parametrize("layout", ["length", "channels", "part of a cache"])
@pytest.mark.parametrize("extra", [0, 1, 6])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
def test_steps_are_the_whole_sequence(provider, width, extra, layout):
    """Whatever the steps, whether the state is a ring, and where it lies."""
    span, channels = width - 1, 70
    x, w, bias = torch.randn(2, channels, 17), torch.randn(channels, width), torch.randn(channels)
    exact, _ = oracle(x, w, bias, lengths=[[17], [17]], activation="silu")
    for ring in (False, True):
        state = state_in(layout, torch.zeros(2, channels, span + extra))
        at, seen, results = 0, torch.tensor([3, 2**31 - 5 if extra else 0], dtype=torch.int64), []
        for length in (1, 1, 4, 1, 9, 1):
            piece = x[:, :, at : at + length]
            arguments = (state, w, bias, "silu", seen + at if ring else None)
            if length == 1:
                results.append(causal_conv1d_update(piece[:, :, 0], *arguments).unsqueeze(2))
            else:
                results.append(causal_conv1d_update(piece, *arguments))
            at += length
        assert_near(torch.cat(results, 2), exact, torch.float32, 8 * width)
        if not ring and span:
            assert torch.equal(state[:, :, -span:], x[:, :, -span:])


@pytest.mark.parametrize("w_dtype", FLOATS[:3], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(provider, dtype, w_dtype):
    x, w, bias = torch.randn(3, 67, 5).to(dtype), torch.randn(67, 4).to(w_dtype), torch.randn(67).to(w_dtype)
    state = torch.randn(3, 67, 4).to(dtype)
    exact, _ = oracle(x, w, bias, state[:, :, 1:], lengths=[[5]] * 3, activation="gelu")
    expected_state = torch.cat([state, x], 2)[:, :, -4:]
    y = torch.stack([causal_conv1d_update(x[:, :, i], state, w, bias, "gelu") for i in range(5)], 2)
    assert_near(y, exact, dtype, 32)
    assert torch.equal(state, expected_state)


def test_dilation(provider):
    x, w = torch.randn(2, 5, 11), torch.randn(5, 3)
    exact, _ = oracle(x, w, lengths=[[11], [11]], dilation=2, activation="relu")
    state = torch.zeros(2, 5, 4)
    y = torch.stack([causal_conv1d_update(x[:, :, i], state, w, activation="relu", dilation=2) for i in range(11)], 2)
    assert_near(y, exact, torch.float32, 8)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("ring", [False, True])
def test_rows_of_a_cache_and_padding(provider, ring, length):
    x, w, bias = torch.randn(5, 66, length), torch.randn(66, 4), torch.randn(66)
    cache = torch.randn(9, 66, 4)
    rows = torch.tensor([7, -1, 0, -1, 3], dtype=torch.int32)
    seen = torch.tensor([5, 0, 4, 9, 1024]) if ring else None
    alone = cache.clone()
    y = causal_conv1d_update(x, cache, w, bias, "silu", seen, rows)
    assert torch.equal(y[rows < 0], torch.zeros(2, 66, length))
    for b, row in enumerate(rows.tolist()):
        if row >= 0:
            own = alone[row : row + 1]
            expected = causal_conv1d_update(
                x[b : b + 1], own, w, bias, "silu", None if seen is None else seen[b : b + 1]
            )
            torch.testing.assert_close(y[b : b + 1], expected)
    assert torch.equal(cache, alone)


def test_all_padding(provider):
    cache = torch.randn(2, 5, 3)
    before = cache.clone()
    y = causal_conv1d_update(torch.randn(3, 5), cache, torch.randn(5, 4), conv_state_indices=torch.tensor([-1, -1, -1]))
    assert torch.equal(y, torch.zeros(3, 5))
    assert torch.equal(cache, before)


def test_a_step_can_be_learned_from(provider):
    x, w, state = torch.randn(2, 5), torch.randn(5, 4, requires_grad=True), torch.randn(2, 5, 3)
    window = torch.cat([state, x.unsqueeze(2)], 2)
    (by_w,) = torch.autograd.grad(causal_conv1d_update(x, state, w).square().sum(), w)
    (exact,) = torch.autograd.grad((window * w).sum(2).square().sum(), w)
    torch.testing.assert_close(by_w, exact)
    assert torch.equal(state, window[:, :, 1:])


def test_a_prompt_then_tokens(provider):
    """Final states of a call are what steps go on from, and what varlen_states finds in a packed batch."""
    x, w = torch.randn(1, 6, 20), torch.randn(6, 4)
    exact, _ = oracle(x, w, lengths=[[20]], activation="silu")
    y, state = causal_conv1d_fn(x[:, :, :12], w, activation="silu", return_final_states=True)
    tokens = [causal_conv1d_update(x[:, :, i], state, w, None, "silu").unsqueeze(2) for i in range(12, 20)]
    assert_near(torch.cat([y, *tokens], 2), exact, torch.float32, 8)


def test_states_of_a_packed_batch():
    x = torch.randn(14, 3)
    states = causal_conv1d_varlen_states(x, torch.tensor([0, 1, 1, 9, 14]), 5)
    assert torch.equal(states[0], torch.cat([torch.zeros(4, 3), x[:1]]).t())
    assert torch.equal(states[1], torch.zeros(3, 5))
    assert torch.equal(states[2], x[4:9].t())
    assert torch.equal(states[3], x[9:14].t())


# ------------------------------------------------------------------------------------------------------ mistakes

X, W, STATE = torch.zeros(2, 6, 8), torch.zeros(6, 4), torch.zeros(2, 6, 4)

MISTAKES = {
    "a state that is too short": (
        lambda: causal_conv1d_fn(X, W, initial_states=torch.zeros(2, 6, 2)),
        r"initial_states of shape \[2, 6, 3\], but got \[2, 6, 2\]",
    ),
    "offsets that decrease": (
        lambda: causal_conv1d_fn(X[:1], W, cu_seqlens=torch.tensor([0, 5, 3, 8])),
        "cu_seqlens not to decrease, but element 1 is 5, element 2 is 3",
    ),
    "offsets that end early": (
        lambda: causal_conv1d_fn(X[:1], W, cu_seqlens=torch.tensor([0, 5])),
        "from 0 to the length 8, but got 0 to 5",
    ),
    "two ways to say where sequences begin": (
        lambda: causal_conv1d_fn(X[:1], W, seq_idx=torch.zeros(1, 8).int(), cu_seqlens=torch.tensor([0, 8])),
        "expected one of them",
    ),
    "a packed batch of two": (lambda: causal_conv1d_fn(X, W, cu_seqlens=torch.tensor([0, 8])), "x has a batch of 2"),
    "weight of other channels": (lambda: causal_conv1d_fn(X, W[:5]), r"weight of shape \[6, taps\].*\[5, 4\]"),
    "weight of three dimensions": (lambda: causal_conv1d_fn(X, W.unsqueeze(1)), r"\[6, 1, 4\]"),
    "bias of other channels": (lambda: causal_conv1d_fn(X, W, torch.zeros(5)), r"bias of shape \[6\], but got \[5\]"),
    "states of another dtype": (
        lambda: causal_conv1d_fn(X, W, initial_states=torch.zeros(2, 6, 3).double()),
        "initial_states to be torch.float32, as x is, but got torch.float64",
    ),
    "floating seq_idx": (lambda: causal_conv1d_fn(X, W, seq_idx=torch.zeros(2, 8)), "seq_idx to be int32 or int64"),
    "two devices": (lambda: causal_conv1d_fn(X, W.to("meta")), "x on cpu and weight on meta"),
    "integers": (lambda: causal_conv1d_fn(X.int(), W), "x to be floating point, but got torch.int32"),
    "a state that is too short for a step": (
        lambda: causal_conv1d_update(X[:, :, 0], STATE[:, :, :2], W),
        r"conv_state of shape \[2, 6, at least 3\] for a kernel of 4 taps.*\[2, 6, 2\]",
    ),
    "a state of another batch": (lambda: causal_conv1d_update(X[:1, :, 0], STATE, W), r"\[1, 6, at least 3\]"),
    "an index out of range": (
        lambda: causal_conv1d_update(X[:, :, 0], STATE, W, conv_state_indices=torch.tensor([0, 2])),
        "between 0 and 1, or -1 for padding, but element 1 is 2",
    ),
    "an index below padding": (
        lambda: causal_conv1d_update(X[:, :, 0], STATE, W, conv_state_indices=torch.tensor([-2, 1])),
        "element 0 is -2",
    ),
    "a state that is expanded": (
        lambda: causal_conv1d_update(X[:, :, 0], STATE[:1].expand(2, 6, 4), W),
        r"of its own memory, but got one that is expanded: \(0, 4, 1\)",
    ),
    "final states of other sizes": (
        lambda: causal_conv1d_fn(X, W, return_final_states=True, final_states_out=STATE),
        r"final_states_out of shape \[2, 6, 3\], but got \[2, 6, 4\]",
    ),
    "final states of another dtype": (
        lambda: causal_conv1d_fn(X, W, return_final_states=True, final_states_out=STATE[:, :, 1:].double()),
        "final_states_out to be torch.float32, as x is, but got torch.float64",
    ),
    "packed states of three dimensions": (
        lambda: causal_conv1d_varlen_states(X, torch.tensor([0, 8]), 3),
        r"x of shape \[length, channels\], but got \[2, 6, 8\]",
    ),
    "packed states of offsets that decrease": (
        lambda: causal_conv1d_varlen_states(X[0].t(), torch.tensor([0, 5, 3]), 3),
        "not to decrease, but element 1 is 5, element 2 is 3",
    ),
    "packed states beyond the end": (
        lambda: causal_conv1d_varlen_states(X[0].t(), torch.tensor([0, 9]), 3),
        "between 0 and the length 8, but got 0 to 9",
    ),
    "packed states of no length": (
        lambda: causal_conv1d_varlen_states(X[0].t(), torch.tensor([0, 8]), -1),
        "state_len of at least 0, but got -1",
    ),
    "a dilation of 0": (lambda: causal_conv1d_fn(X, W, dilation=0), "dilation of at least 1, but got 0"),
    "one dimension": (lambda: causal_conv1d_update(X[0, 0], STATE, W), r"\[batch, channels.*\[8\]"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_and_change_nothing(provider, name):
    call, words = MISTAKES[name]
    STATE.fill_(1)
    with pytest.raises(RuntimeError, match=words):
        call()
    assert STATE.eq(1).all()


def test_an_unknown_activation_is_named():
    for call in (
        lambda: causal_conv1d_fn(X, W, activation="mish"),
        lambda: causal_conv1d_update(X, STATE, W, None, "mish"),
    ):
        with pytest.raises(ValueError, match="'relu', but got 'mish'"):
            call()
    with pytest.raises(ValueError, match=r"but got \['silu'\]"):
        causal_conv1d_fn(X, W, activation=["silu"])
