"""The six layers in the place of torch.nn's."""

import copy
import inspect
import pickle

import pytest
import torch

import convext

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature"),
]


def rank(name):
    return int(name[-2])


def assert_same(ours, theirs, x):
    """Output and gradients, and the order of the output's axes."""
    results = []
    for layer in (ours, theirs):
        input = x.detach().requires_grad_(x.is_floating_point() or x.is_complex())
        y = layer(input)
        grads = torch.autograd.grad(y.abs().square().sum(), [input, *layer.parameters()])
        results.append((y, *grads))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert results[0][0].is_contiguous() == results[1][0].is_contiguous()


def test_same_signature_and_ancestry(name):
    cls, torchs = getattr(convext, name), getattr(torch.nn, name)
    assert issubclass(cls, torchs)
    assert list(inspect.signature(cls).parameters) == list(inspect.signature(torchs).parameters)
    for parameter in inspect.signature(torchs).parameters.values():
        assert inspect.signature(cls).parameters[parameter.name].default == parameter.default


def test_same_random_draws_and_generator_state(name):
    states = []
    for module in (convext, torch.nn):
        torch.manual_seed(5)
        layer = getattr(module, name)(4, 6, 3, groups=2)
        states.append((layer.weight, layer.bias, torch.get_rng_state()))
    for ours, theirs in zip(*states, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_both_ways(name, bias, pair):
    ours, theirs = pair(name, 4, 6, 3, groups=2, bias=bias)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "bias": False}, {"groups": 2, "output_padding": 1, "stride": 2},
     {"padding": "same", "padding_mode": "reflect"}],
    ids=str,
)  # fmt: skip
def test_same_repr_with_the_package_before_it(name, arguments, pair):
    transposed = "Transpose" in name
    if transposed == ("padding_mode" in arguments) or (not transposed and "output_padding" in arguments):
        arguments = {}
    ours, theirs = pair(name, 4, 6, 3, **arguments)
    assert repr(ours) == f"convext.{theirs!r}"


def test_reprs_beyond_torch():
    assert "padding=causal" in repr(convext.Conv1d(1, 1, 3, padding="causal"))
    assert "padding=((1, 0), (0, 2))" in repr(convext.Conv2d(1, 1, 3, padding=((1, 0), (0, 2))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("batch", [None, 0, 1, 3], ids=["unbatched", "batch 0", "batch 1", "batch 3"])
@pytest.mark.parametrize(
    "arguments", [{}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}], ids=["plain", "all"]
)
def test_same_result(name, arguments, batch, dtype, pair, device):
    ours, theirs = pair(name, 4, 6, 3, dtype=dtype, **arguments)
    lead = () if batch is None else (batch,)
    x = torch.randn(*lead, 4, *[6, 7, 5][: rank(name)], dtype=dtype, device=device)
    assert_same(ours, theirs, x)


def test_integers(name, device):
    ours, theirs = (getattr(module, name)(2, 3, 2).to(device) for module in (convext, torch.nn))
    for layer in (ours, theirs):
        layer.weight = torch.nn.Parameter(torch.arange(layer.weight.numel()).view(layer.weight.shape), False)
        layer.bias = torch.nn.Parameter(torch.arange(3), False)
    ours, theirs = ours.to(device), theirs.to(device)
    x = torch.arange(2 * 4 ** rank(name), device="cpu").view(1, 2, *[4] * rank(name))
    if device == "cpu":
        assert torch.equal(ours(x), theirs(x))
    else:
        for layer in (ours, theirs):
            with pytest.raises(RuntimeError):
                layer(x.to(device))


@pytest.mark.parametrize("where", ["input", "weight", "both"])
@pytest.mark.parametrize("cls", ["Conv2d", "Conv3d", "ConvTranspose2d"])
def test_channels_last(cls, where, pair, device):
    """Channels last in one operand is channels last in the result, the weight's alone included."""
    memory_format = torch.channels_last if rank(cls) == 2 else torch.channels_last_3d
    ours, theirs = pair(cls, 4, 6, 3, dtype=torch.float32)
    x = torch.randn(2, 4, *[5, 6, 7][: rank(cls)], device=device)
    if where != "weight":
        x = x.to(memory_format=memory_format)
    if where != "input":
        ours, theirs = (layer.to(memory_format=memory_format) for layer in (ours, theirs))
    assert ours(x).is_contiguous(memory_format=memory_format)
    assert ours(x).stride() == theirs(x).stride()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_output_size(name, extra, pair, device):
    ours, theirs = pair(name, 2, 3, 3, stride=3, padding=1, dtype=torch.float64)
    x = torch.randn(2, 2, *[4] * rank(name), dtype=torch.float64, device=device)
    size = [10 + extra] * rank(name)
    for wanted in (size, [2, 3, *size]):
        torch.testing.assert_close(ours(x, wanted), theirs(x, wanted))
        assert ours(x, output_size=wanted).shape[2:] == torch.Size(size)
    with pytest.raises(ValueError, match="requested an output size") as caught:
        ours(x, [13] * rank(name))
    with pytest.raises(ValueError, match="requested an output size") as torchs:
        theirs(x, [13] * rank(name))
    assert str(caught.value) == str(torchs.value)


def test_changed_attributes_take_effect(name, pair, device):
    ours, theirs = pair(name, 4, 4, 3, padding=1, dtype=torch.float64)
    x = torch.randn(2, 4, *[6, 7, 5][: rank(name)], dtype=torch.float64, device=device)
    ours(x)
    each = (1,) * rank(name)
    for attribute, value in (("stride", 2), ("padding", 0), ("dilation", 2)):
        for layer in (ours, theirs):
            setattr(layer, attribute, tuple(value * one for one in each))
        assert_same(ours, theirs, x)
    for layer in (ours, theirs):
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)
        layer.bias = None
    assert_same(ours, theirs, x)


def test_copies_and_pickles(name, pair, device):
    layer, theirs = pair(name, 4, 6, 3, groups=2)
    x = torch.randn(1, 4, *[5] * rank(name), device=device)
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(made) is type(layer)
        assert made.weight is not layer.weight
        torch.testing.assert_close(made(x), theirs(x))
        assert repr(made) == repr(layer)


def test_pickles_of_paddings_beyond_torch(device):
    for padding, zeros in (("causal", (2, 0)), (((2, 1),), (2, 1))):
        layer = convext.Conv1d(1, 1, 3, padding=padding, device=device)
        x = torch.randn(1, 1, 6, device=device)
        expected = torch.conv1d(torch.nn.functional.pad(x, zeros), layer.weight, layer.bias)
        torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), expected)


def test_meta_device_and_to(name):
    layer = getattr(convext, name)(4, 6, 3, device="meta", dtype=torch.float16)
    assert layer.weight.is_meta
    assert layer.weight.dtype == torch.float16
    assert layer.to_empty(device="cpu").weight.device.type == "cpu"


@pytest.mark.parametrize("training", [True, False])
def test_half_precision_agrees_with_torch(name, training, pair, device):
    ours, theirs = pair(name, 4, 6, 3, dtype=torch.bfloat16)
    x = torch.randn(1, 4, *[5] * rank(name), dtype=torch.bfloat16, device=device)
    actual, expected = ours.train(training)(x), theirs.train(training)(x)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    exact = theirs.double()(x.double())  # where oneDNN has no bfloat16, torch rounds at each tap, and ours does not
    mine, torchs = ((y.double() - exact).abs().max() for y in (actual, expected))
    assert mine <= 2 * torchs + 2 * torch.finfo(torch.bfloat16).eps * exact.abs().max()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_output_size_says_which_of_the_strides_sizes_is_meant(rank):
    ours, theirs = (getattr(module, f"ConvTranspose{rank}d")(2, 3, 3, stride=2) for module in (convext, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    x, size = torch.randn(1, 2, *[4] * rank), [9, 10, 9][:rank]
    torch.testing.assert_close(ours(x, size), theirs(x, size))
    with pytest.raises(ValueError, match="requested an output size") as expected:
        theirs(x, [11] * rank)
    with pytest.raises(ValueError, match="requested an output size") as caught:
        ours(x, [11] * rank)
    assert str(caught.value) == str(expected.value)
