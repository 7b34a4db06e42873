"""What cannot be a stream is refused by name, with by how many samples it looks ahead; and chunks that don't fit."""

from __future__ import annotations

import operator
import re

import pytest
import torch
from causal_networks import Apply, Cut, batch_norm, padded, residual
from torch import nn

import convext
from convext import blocks, layers

C = 4
HOLDS = {
    "looks 1 sample ahead": [
        nn.Conv1d(C, C, 3, padding=1),
        nn.Conv1d(C, C, 3, padding="same"),
        nn.Conv1d(C, C, 2),
        nn.Conv1d(C, C, 2, padding="same"),
        convext.Conv1d(C, C, 3, padding=((1, 1),)),
        nn.ConvTranspose1d(C, C, 4, 2, padding=1),
        nn.Conv1d(C, C, 4, stride=2, padding=1),
        nn.MaxPool1d(3, 2),
        nn.ReflectionPad1d((1, 0)),
        nn.Conv1d(C, C, 2, padding=1, padding_mode="reflect"),
        layers.CausalConv1d(C, C, 2, padding_mode="reflect"),
        Cut(1),
        Apply(lambda x: x[..., 1:]),
        Apply(lambda x: nn.functional.pad(x, (0, -1))),
    ],
    "looks 2 samples ahead": [
        nn.Conv1d(C, C, 3),
        nn.Conv1d(C, C, 5, padding=2),
        nn.Conv1d(C, C, 3, dilation=2, padding="same"),
        layers.DepthwiseSeparableConv1d(C, C, 3, padding="same", dilation=2),
        blocks.SeparableDilatedConv1d(C, C),
        convext.convert(nn.Conv1d(C, C, 5, padding=2)),
        nn.Conv1d(C, C, 3, stride=3, padding=0, dilation=2),
    ],
    "mixes the whole of time": [
        nn.MultiheadAttention(C, 2),
        nn.GroupNorm(2, C),
        nn.InstanceNorm1d(C),
        nn.AdaptiveAvgPool1d(3),
        nn.AdaptiveMaxPool1d(1),
        nn.BatchNorm1d(C).train(),
        nn.BatchNorm1d(C, track_running_stats=False),
        nn.LayerNorm(30),
        nn.Softmax(-1),
        nn.Linear(30, 30),
        nn.GLU(),
        nn.Conv1d(C, C, 3, padding=2, padding_mode="circular"),
        nn.Flatten(),
        Apply(lambda x: x.flip(-1)),
        Apply(lambda x: torch.flip(x, [1, 2])),
        Apply(lambda x: x - x.mean()),
        Apply(lambda x: x / x.amax(2, keepdim=True)),
        Apply(lambda x: x.cumsum(-1)),
        Apply(lambda x: torch.roll(x, 1)),
        Apply(lambda x: torch.cat([x, x], -1)),
        Apply(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
    ],
    "is not known": [
        nn.LSTM(C, C),
        Apply(torch.fft.fft),
        Apply(lambda x: x / x.std(1, True).unsqueeze(1)),
        Apply(lambda x: x.roll_my_own()),
        Apply(lambda x: torch.einsum("ncl,nkl->nck", x, x)),
    ],
    "the signal's shape": [
        Apply(lambda x: x.view(2, -1)),
        Apply(lambda x: x[..., : x.shape[-1] // 2]),
        Apply(lambda x: x.reshape(2, 2, -1)),
    ],
    "writes into a part of time": [Apply(lambda x: (y := nn.functional.pad(x, (2, 0)), y[..., 2:].add_(1), y)[-1])],
    "could not be traced by torch.fx": [nn.CircularPad1d((2, 0)), Apply(lambda x: x if x.sum() > 0 else -x)],
    "training mode": [nn.Dropout().train(), Apply(lambda x: nn.functional.dropout(x))],
    "30 positions in time": [Apply(lambda x, f: x + f.weight, nn.Linear(30, C))],
    "begins with a constant": [nn.ReplicationPad1d((2, 0)), layers.CausalConv1d(C, C, 2, padding_mode="replicate")],
    "and only parts such as": [
        Apply(lambda x: x[:, :, ::2]),
        Apply(lambda x: x[:, :, -1]),
        Apply(lambda x: x[:, :, :9]),
    ],
    "1 and 1/2 samples for each": [residual(padded(C, 3, s=2))],
    "0 and 2 samples longer": [residual(nn.Conv1d(C, C, 3, padding=2))],
    "no multiple of its stride 2": [nn.Conv1d(C, C, 4, stride=2, padding=3)],
}  # fmt: skip
CASES = [(words, layer) for words, of_these in HOLDS.items() for layer in of_these]


@pytest.mark.parametrize(("words", "layer"), CASES, ids=[f"{w}: {str(m).split('(')[0]}" for w, m in CASES])
def test_a_refusal_names_the_layer(words: str, layer: nn.Module) -> None:
    model = nn.Sequential(padded(C, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ValueError, match=words) as error:
        convext.streaming(model)
    assert re.match(r"layer '1\.1[\w.]*' ", str(error.value))


def test_a_model_that_is_one_layer_is_named_by_its_function() -> None:
    with pytest.raises(ValueError, match=r"^'conv1d' in the model's own forward looks 2 samples ahead"):
        convext.streaming(nn.Conv1d(C, C, 3))


def test_a_look_ahead_says_what_helps() -> None:
    with pytest.raises(ValueError, match=r"cut the end off instead, as in y\[\.\.\., :-2\]"):
        convext.streaming(nn.ConvTranspose1d(C, C, 4, 2, padding=1))
    with pytest.raises(ValueError, match="its 3 taps, 2 apart, span 4 samples beside the newest, and 1 come"):
        convext.streaming(nn.Conv1d(C, C, 3, dilation=2, padding=1))


def test_an_end_that_is_not_cut_off() -> None:
    model = nn.Sequential(nn.Conv1d(C, C, 3, padding=2), nn.ReLU())
    with pytest.raises(ValueError, match=r"ends with 2 samples that depend on .* layer '0': .* y\[\.\.\., :-2\]"):
        convext.streaming(model)
    with pytest.raises(ValueError, match="ends with 2 samples"):
        convext.streaming(nn.Sequential(nn.ConvTranspose1d(C, C, 4, 2)))


def test_a_forward_that_asks_for_values() -> None:
    with pytest.raises(ValueError, match=r"^Apply could not be traced by torch.fx"):
        convext.streaming(Apply(lambda x: x if x.sum() > 0 else -x))
    with pytest.raises(ValueError, match=r"could not be traced .* item assignment"):
        convext.streaming(Apply(lambda x: operator.setitem(x, ..., 0)))
    with pytest.raises(ValueError, match="calls zero_, and"):
        convext.streaming(Apply(lambda x: (x.zero_(), x)[-1]))
    with pytest.raises(TypeError, match=r"takes a torch.nn.Module, but got function"):
        convext.streaming(padded)


def test_chunks_that_do_not_fit() -> None:
    stream = convext.streaming(padded(C, 3))
    with pytest.raises(
        RuntimeError, match=r"weight of size \[4, 4, 3\], expected input\[2, 5, 7\] to have 4 channels, but got 5"
    ):
        stream.step(torch.randn(2, 5, 7))
    with pytest.raises(RuntimeError, match=r"expected input to be a chunk \[N, C, n\], but got \[4, 7\]"):
        stream.step(torch.randn(C, 7))
    stream.step(torch.randn(2, C, 7))
    with pytest.raises(
        RuntimeError, match=r"a chunk \[2, 4, n\] torch.float32 on cpu, as the first was, but got \[3, 4, n\]"
    ):
        stream.step(torch.randn(3, C, 7))
    with pytest.raises(RuntimeError, match=r"but got \[2, 5, n\] .*: reset\(\) begins a new signal"):
        stream.step(torch.randn(2, C + 1, 1))
    with pytest.raises(RuntimeError, match=r"but got .* torch.float64"):
        stream.step(torch.randn(2, C, 7).double())
    with pytest.raises(TypeError, match=r"expected 1 chunks \(input\), but got 2"):
        stream.step(torch.randn(2, C, 7), torch.randn(2, C, 7))
    up = convext.streaming(nn.Sequential(nn.ConvTranspose1d(C, C, 2, 2), batch_norm(C).eval()))
    with pytest.raises(
        RuntimeError, match=r"transposed=1, weight of size \[4, 4, 2\], expected input\[1, 3, 1\] to have 4 channels"
    ):
        up.step(torch.randn(1, 3, 1))


def test_states_that_do_not_fit() -> None:
    stream, other = convext.streaming(padded(C, 3)), convext.streaming(padded(C, 5))
    other.step(torch.randn(1, C, 2))
    with pytest.raises(RuntimeError, match=r"expected 1.past to have 2 samples, but got \[1, 4, 4\]"):
        stream.state = other.state
    with pytest.raises(RuntimeError, match=r"missing keys \['1.past', 'chunk.input'\], unexpected keys \['x'\]"):
        stream.state = {"x": torch.zeros(1)}


def test_two_inputs_of_different_lengths() -> None:
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    stream = convext.streaming(Sum())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="chunks of one length, but got 3 and 4 samples"):
            stream.step(torch.randn(1, C, 3), torch.randn(1, C, 4))
        stream.step(torch.randn(1, C, 3), torch.randn(1, C, 3))
