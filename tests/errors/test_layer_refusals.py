"""Layers refuse what torch.nn's refuse, when torch.nn's do."""

import re

import pytest
import torch

import convext

pytestmark = pytest.mark.usefixtures("backend")

CONSTRUCTIONS = [
    ("Conv2d", (3, 4, 3), {"groups": 2}),
    ("Conv2d", (4, 3, 3), {"groups": 2}),
    ("Conv1d", (4, 4, 3), {"groups": 0}),
    ("Conv2d", (4, 4, 3), {"groups": -2}),
    ("Conv2d", (1, 1, 3), {"padding": "full"}),
    ("Conv3d", (1, 1, 3), {"padding_mode": "mirror"}),
    ("ConvTranspose2d", (3, 4, 3), {"groups": 2}),
    ("ConvTranspose1d", (1, 1, 3), {"padding_mode": "circular"}),
    ("Conv2d", (1, 1), {}),
    ("Conv2d", (1, 1, 3), {"strides": 2}),
    ("Conv2d", (-1, 1, 3), {}),
]


@pytest.mark.parametrize(("name", "arguments", "keywords"), CONSTRUCTIONS, ids=str)
def test_constructors(name, arguments, keywords):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(torch.nn, name)(*arguments, **keywords)
    with pytest.raises(theirs.type) as ours:
        getattr(convext, name)(*arguments, **keywords)
    assert ours.type is theirs.type
    if theirs.type is ValueError:
        assert set(re.findall(r"\w+", str(theirs.value))) & {"groups", "padding", "padding_mode"} <= set(
            re.findall(r"\w+", str(ours.value))
        )


@pytest.mark.parametrize("pads", [((1, 1),), ((1, 1), (1, 1), (1, 1)), ((1, 1, 1), (1, 1)), ((1,), 1)], ids=str)
def test_pairs_of_another_rank_are_refused_at_construction(pads):
    with pytest.raises(ValueError, match="expected padding to have a number or a"):
        convext.Conv2d(1, 1, 3, padding=pads)


CALLS = [
    ("Conv2d", (4, 4, 3), {}, (2, 3, 6, 6)),
    ("Conv2d", (4, 4, 3), {"groups": 2}, (2, 6, 6, 6)),
    ("Conv2d", (1, 1, 5), {}, (1, 1, 3, 3)),
    ("Conv1d", (1, 1, 3), {"stride": 0}, (1, 1, 6)),
    ("Conv3d", (1, 1, 3), {"dilation": 0}, (1, 1, 6, 6, 6)),
    ("Conv2d", (1, 1, 3), {"padding": -1}, (1, 1, 6, 6)),
    ("Conv2d", (1, 1, 3), {"padding": (1, 1, 1, 1)}, (1, 1, 6, 6)),
    ("Conv2d", (1, 1, 3), {}, (1, 1, 1, 6, 6)),
    ("Conv2d", (1, 1, 3), {"padding": 6, "padding_mode": "reflect"}, (1, 1, 6, 6)),
    ("Conv2d", (1, 1, 3), {"padding": 7, "padding_mode": "circular"}, (1, 1, 6, 6)),
    ("ConvTranspose2d", (4, 4, 3), {}, (2, 3, 6, 6)),
    ("ConvTranspose2d", (1, 1, 3), {"output_padding": 1}, (1, 1, 6, 6)),
    ("ConvTranspose2d", (1, 1, 3), {"padding": "same"}, (1, 1, 6, 6)),
    ("ConvTranspose1d", (1, 1, 3), {"stride": 0}, (1, 1, 6)),
]


@pytest.mark.parametrize(("name", "arguments", "keywords", "shape"), CALLS, ids=str)
def test_calls(name, arguments, keywords, shape, device):
    x = torch.randn(shape, device=device)
    ours, theirs = (getattr(module, name)(*arguments, **keywords).to(device) for module in (convext, torch.nn))
    state, before = {key: value.clone() for key, value in ours.state_dict().items()}, x.clone()
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(x)
    with pytest.raises(expected.type) as caught:
        ours(x)
    assert caught.type is expected.type
    found, wanted = (set(re.findall(r"\b\d+\b", str(e.value))) for e in (caught, expected))
    assert wanted <= found, f"{expected.value}\n{caught.value}"
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("kind", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
def test_a_padding_mode_that_a_transposed_layer_is_given_later(kind):
    layers = [getattr(module, kind)(1, 1, 3) for module in (convext, torch.nn)]
    for layer in layers:
        layer.padding_mode = "circular"
        with pytest.raises(ValueError, match=f"Only `zeros` padding mode is supported for {kind}"):
            layer(torch.randn(1, 1, *[6] * int(kind[-2])))


def test_a_state_of_another_shape(device):
    layer = convext.Conv2d(1, 1, 3, device=device)
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(torch.nn.Conv2d(1, 1, 5).state_dict())
    assert torch.equal(layer.weight, before)
