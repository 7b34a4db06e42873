"""A call is remembered by all that its answer depends on: calls that differ in one thing are right in any order."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import convext
from convext import functional
from convext.choice import gpu_table, registry, remembered, settings
from convext.functional import calls
from convext.operators import forward, keys
from convext.operators.plain import is_plain

# Layers that each Triton family takes, in its interpreter where there is no GPU.
FAMILIES = {
    "triton.stencil": {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4},
    "triton.pointwise": {"in_channels": 5, "out_channels": 6, "kernel_size": 1, "stride": 2},
    "triton.grouped": {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 2},
    "triton.igemm": {"in_channels": 2, "out_channels": 2, "kernel_size": (1, 2), "padding": (0, 1)},
    "triton.banded": {"in_channels": 2, "out_channels": 2, "kernel_size": 5, "padding": 2, "groups": 2},
}
DTYPES = {"triton.banded": torch.float16}  # which Triton's interpreter multiplies; of bfloat16 it multiplies the bits
SIZE = 4


@pytest.fixture(autouse=True)
def _nothing_remembered():
    remembered.forget()
    yield
    remembered.forget()


def expected(layer, x, y_gradient):
    """The output and the gradients by x, weight and bias of torch's layer, in float64."""
    arguments = layer.stride, layer.padding, layer.dilation, layer.groups
    leaves = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    if layer.transposed:
        stride, padding, dilation, groups = arguments
        y = torch.nn.functional.conv_transpose2d(*leaves, stride, padding, layer.output_padding, groups, dilation)
    else:
        y = torch.nn.functional.conv2d(*leaves, *arguments)
    return [y, *torch.autograd.grad(y, leaves, y_gradient.double())]


def assert_right(layer, x):
    """The layer's output and all its gradients."""
    x = x.detach().requires_grad_()
    y = layer(x)
    gradient = torch.randn_like(y)
    ours = [y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), gradient)]
    tolerance = 1e-4 if x.dtype is torch.float32 else 4e-2
    for mine, theirs in zip(ours, expected(layer, x, gradient), strict=True):
        assert mine.dtype is x.dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())
    return y


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("cls", [convext.Conv2d, convext.ConvTranspose2d])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_values(family, cls, memory_format, device):
    """Nothing but addresses may come from the first call: not values, not memory, not what was copied."""
    dtype = DTYPES.get(family, torch.float32)
    with convext.backend(family):
        for _ in range(2):
            layer = cls(**FAMILIES[family], dtype=dtype, device=device)
            x = torch.randn(1, layer.in_channels, SIZE, SIZE, dtype=dtype, device=device)
            y = assert_right(layer, x.contiguous(memory_format=memory_format))
            assert y.is_contiguous(memory_format=memory_format)
            with torch.no_grad():
                assert torch.equal(layer(x.contiguous(memory_format=memory_format)), y)
    kinds = {type(run).__name__ for run in (*forward._runs.values(), *forward._runs_of_all.values())}
    assert kinds == {"Replay"}
    assert {call.run for call in calls._calls.values()} <= {*forward._runs.values()}
    assert forward._runs_of_all  # one look-up for all gradients, of a transposed layer as well


def test_results_do_not_share_memory(device):
    layer = convext.Conv2d(**FAMILIES["triton.stencil"], device=device)
    x = torch.randn(1, 4, SIZE, SIZE, device=device)
    with convext.backend("triton"), torch.no_grad():
        results = [layer(x) for _ in range(4)]
    assert len({y.data_ptr() for y in results}) == 4


def image(device="cpu", dtype=torch.float32):
    return torch.randn(2, 4, SIZE, SIZE, dtype=dtype, device=device)


LIES = {
    "contiguous": image,
    "channels last": lambda device: image(device).contiguous(memory_format=torch.channels_last),
    "rows apart": lambda device: torch.randn(2, 4, SIZE, 2 * SIZE, device=device)[..., :SIZE],
    "every other column": lambda device: torch.randn(2, 4, SIZE, 2 * SIZE, device=device)[..., ::2],
    "fewer rows": lambda device: image(device)[:, :, :2],
    "transposed": lambda device: image(device).transpose(2, 3),
    "one image for both": lambda device: image(device)[:1].expand(2, -1, -1, -1),
    "one element on": lambda device: torch.randn(2 * 4 * SIZE**2 + 1, device=device)[1:].view(2, 4, SIZE, SIZE),
    "half": lambda device: image(device, torch.float16),
    "inference": lambda device: _in_inference_mode(device),
}


def _in_inference_mode(device):
    with torch.inference_mode():
        return image(device)


@pytest.mark.parametrize("second", LIES)
@pytest.mark.parametrize("backend", ["triton.stencil", "aten"])
def test_operands_that_lie_otherwise(backend, second, device):
    layer = convext.Conv2d(**FAMILIES["triton.stencil"], device=device)
    with convext.backend(backend), torch.no_grad():
        for name in ("contiguous", second, "contiguous"):
            x = LIES[name](device)
            y = layer.to(x.dtype)(x)
            weight, bias = layer.weight.double(), layer.bias.double()
            oracle = torch.nn.functional.conv2d(x.double(), weight, bias, padding=1, groups=layer.groups)
            torch.testing.assert_close(y.double(), oracle, rtol=1e-2 if x.dtype is torch.float16 else 1e-4, atol=1e-2)
            last = name == "channels last"
            assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


CALLS = {
    "stride": {"stride": 2},
    "padding": {"padding": 2},
    "pairs of paddings": {"padding": ((0, 1), (2, 0))},
    "a word": {"padding": "same"},
    "dilation": {"dilation": 2},
    "a list": {"stride": [1, 2]},
    "no bias": {"bias": None},
    "every other bias": {"bias": torch.randn(8)[::2]},
    "weight transposed": {"weight": torch.randn(4, 1, 3, 3).transpose(2, 3)},
    "more taps": {"weight": torch.randn(4, 1, 5, 3)},
}


@pytest.mark.parametrize("change", CALLS)
@pytest.mark.parametrize("backend", ["triton.stencil", "aten"])
def test_other_arguments(backend, change, device):
    x = image(device)
    plain = {"weight": torch.randn(4, 1, 3, 3), "bias": torch.randn(4), "stride": 1, "padding": 1, "dilation": 1}
    for arguments in (plain, plain | CALLS[change], plain):
        given = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        with convext.backend(backend):
            y = functional.conv2d(x, **given, groups=4)
        exact = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        padded = x.double()
        if isinstance(exact["padding"], tuple):
            (top, bottom), (left, right) = exact.pop("padding")
            padded = torch.nn.functional.pad(padded, (left, right, top, bottom))
        oracle = torch.nn.functional.conv2d(padded, **exact, groups=4)
        torch.testing.assert_close(y.double(), oracle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["triton.stencil", "aten"])
def test_who_requires_gradients(backend, device):
    """Frozen, trained and frozen again between calls, in and out of grad and inference mode."""
    layer = convext.Conv2d(**FAMILIES["triton.stencil"], device=device)
    for by_x, by_w, mode in (
        (False, False, nullcontext), (True, True, nullcontext), (True, False, nullcontext), (False, True, nullcontext),
        (True, True, torch.no_grad), (True, True, torch.inference_mode), (True, True, nullcontext),
    ):  # fmt: skip
        layer.requires_grad_(by_w)
        x = image(device).requires_grad_(by_x)
        with convext.backend(backend), mode():
            y = layer(x)
        assert y.requires_grad == (mode is nullcontext and (by_x or by_w))
        assert y.is_inference() == (mode is torch.inference_mode)
        if y.requires_grad:
            gradient = torch.randn_like(y)
            wanted = [t for t in (x, layer.weight, layer.bias) if t.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, gradient))
            for t, oracle in zip((x, layer.weight, layer.bias), expected(layer, x, gradient)[1:], strict=True):
                if t.requires_grad:
                    torch.testing.assert_close(next(found).double(), oracle, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["triton.stencil", "aten"])
def test_autocast_on_and_off(backend, device):
    layer, x = convext.Conv2d(**FAMILIES["triton.stencil"], device=device), image(device)
    with convext.backend(backend):
        for on in (False, True, False):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=on):
                assert layer(x).dtype is (torch.bfloat16 if on else torch.float32)


def test_second_derivatives_after_first(device):
    """A backward pass that is recorded is not the one that was remembered."""
    layer, x = convext.Conv2d(**FAMILIES["triton.stencil"], device=device), image(device).requires_grad_()
    leaves = x, layer.weight
    exact = [t.detach().double().requires_grad_() for t in leaves]

    def second(function, leaves, create):
        y = function(*leaves)
        first = torch.autograd.grad((y * y * y).sum(), leaves, create_graph=create)
        return torch.autograd.grad(sum((g * g).sum() for g in first), leaves) if create else first

    oracle = second(
        lambda x, w: torch.nn.functional.conv2d(x, w, layer.bias.double(), padding=1, groups=4), exact, True
    )
    with convext.backend("triton"):
        for create in (False, True):
            found = second(lambda x, w: functional.conv2d(x, w, layer.bias, padding=1, groups=4), leaves, create)
    for mine, theirs in zip(found, oracle, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_settings_between_calls(device, monkeypatch):
    """Whose kernel, and how products are formed, is asked of the settings of the call at hand."""
    seen = []
    choose = registry.choose
    monkeypatch.setattr(registry, "choose", lambda p, name: (seen.append((name, p.precision)), choose(p, name))[1])
    layer, x = convext.Conv2d(**FAMILIES["triton.stencil"], device=device), image(device)
    _, arch, _ = forward.machine(x)
    monkeypatch.setattr(forward, "machine", lambda t: (device, arch, settings.fp32_precision()))
    with torch.no_grad():
        for name, precision in (("aten", "ieee"), ("triton", "ieee"), ("triton", "tf32x3"), ("aten", "ieee")):
            with convext.backend(name), convext.precision(precision):
                layer(x)
    assert seen == [("aten", "ieee"), ("triton", "ieee"), ("triton", "tf32x3")]


def test_torchs_own_flag_is_part_of_the_key(monkeypatch):
    """On CUDA float32 products are formed as torch.backends says, where `convext.precision` does not."""
    monkeypatch.setattr(keys, "PLAIN_TYPES", (SimpleNamespace,))
    monkeypatch.setattr(keys, "is_subclass_like", lambda t: False)

    def tensor(index=0, dtype=torch.float32):
        return SimpleNamespace(
            dtype=dtype, device=torch.device("cuda", index), is_cuda=True, shape=(1,), stride=lambda: (1,),
            data_ptr=lambda: 512, is_neg=lambda: False, _is_zerotensor=lambda: False,
        )  # fmt: skip

    def keys_under(flag):
        torch.backends.cudnn.conv.fp32_precision = flag
        return [keys.key_of(t, t, None) for t in (tensor(), tensor(1), tensor(dtype=torch.float16))]

    before = torch.backends.cudnn.conv.fp32_precision
    try:
        ieee, tf32 = keys_under("ieee"), keys_under("tf32")
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert ieee[0] != tf32[0]
    assert ieee[0] != ieee[1]
    assert ieee[2] == tf32[2]


def test_where_memory_begins_is_part_of_the_key():
    """Triton compiles vector loads for addresses that 16 divides; its interpreter does not show that."""
    memory = torch.randn(40)
    aligned, shifted = memory[: 4 * 4], memory[1 : 1 + 4 * 4]
    assert aligned.data_ptr() % 16 == 0
    assert keys.key_of(aligned, aligned, None) == keys.key_of(memory[4:20], aligned, None)
    operands = [(aligned, aligned, aligned)]
    operands += [tuple(shifted if i == j else aligned for j in range(3)) for i in range(3)]
    assert len({keys.key_of(*each) for each in operands}) == 4


def test_what_is_not_plain_has_no_key():
    plain = torch.randn(3)
    for seen in (torch.randn(3, device="meta"), torch._efficientzerotensor((3,)), torch.randn(3).to_sparse(), 1.0):
        assert keys.key_of(plain, seen, None) is None
        assert keys.key_of(plain, plain, seen) is None
    kept: dict = {}
    keys.remember(kept, None, 1)
    assert kept == {}


def test_too_many_calls_are_forgotten():
    kept: dict = {}
    for i in range(keys.MOST + 1):
        keys.remember(kept, i, i)
    assert kept == {keys.MOST: keys.MOST}


@pytest.mark.parametrize("news", ["a kernel", "a table"])
def test_news_of_kernels_or_tables_are_heard(news, monkeypatch, tmp_path, device):
    monkeypatch.setattr(registry, "KERNELS", [*registry.KERNELS])
    x, w = image(device), torch.randn(4, 1, 3, 3, device=device)
    with convext.backend("aten"):
        functional.conv2d(x, w, groups=4)
        functional.conv2d(x, w, groups=4, padding=((1, 0), (1, 0)))  # which torch does not have
        assert calls._calls
        assert forward._runs
        if news == "a kernel":
            convext.register(convext.Kernel("toy.none", ("fprop",), lambda problem: "nothing", registry.ATEN.run))
        else:
            gpu_table.write(tmp_path / "sm_90.json", [], {})
    assert not calls._calls
    assert not forward._runs


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_aten_by_name_is_torchs_operator_where_it_keeps_what_ours_does(kind, rank, device):
    """Node of torch's own where nothing is frozen; ours where torch would keep a tensor that no gradient reads."""
    layer = getattr(convext, f"{kind}{rank}d")(4, 4, 3, groups=2, device=device)
    x = torch.randn(2, 4, *[SIZE] * rank, device=device)
    with convext.backend("aten"):
        for by_x, by_w, by_bias, precision, torchs in (
            (True, True, True, None, True), (True, False, False, None, False), (False, True, True, None, False),
            (False, False, True, None, False), (True, True, False, None, True), (True, True, True, "ieee", False),
            (True, True, True, None, True),
        ):  # fmt: skip
            layer.weight.requires_grad_(by_w)
            layer.bias.requires_grad_(by_bias)
            with convext.precision(precision):
                results = [layer(x.detach().requires_grad_(by_x)) for _ in range(2)]
            nodes = [y.grad_fn.name() for y in results]  # in torch 2.11 one of ours has none once its result is gone
            assert nodes == ["ConvolutionBackward0" if torchs else "_FaceBackward"] * 2


@pytest.mark.parametrize("kind", ["Conv1d", "ConvTranspose1d"])
def test_a_result_of_aten_by_name_may_be_changed_in_place(kind, device):
    """torch computes 1-D in 2-D: what it returns is no view for all that."""
    layer, x = getattr(convext, kind)(4, 4, 3, device=device), torch.randn(2, 4, 9, device=device).requires_grad_()
    oracle = getattr(torch.nn, kind)(4, 4, 3).to(device)
    oracle.load_state_dict(layer.state_dict())
    with convext.backend("aten"):
        for _ in range(2):
            y = layer(x)
            assert not y._is_view()
            found = torch.autograd.grad(y.relu_().square().sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(oracle(x).relu().square().sum(), [x, *oracle.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [0, (1, 1), ((1, 0), (0, 1))])
def test_aten_by_name_pads_as_asked(padding, device):
    layer, x = convext.Conv2d(4, 4, 3, padding=padding, device=device), image(device).requires_grad_()
    (top, bottom), (left, right) = ((p, p) if isinstance(p, int) else p for p in layer.padding)
    padded = torch.nn.functional.pad(x.double(), (left, right, top, bottom))
    oracle = torch.nn.functional.conv2d(padded, layer.weight.double(), layer.bias.double())
    with convext.backend("aten"):
        for _ in range(2):
            torch.testing.assert_close(layer(x).double(), oracle, rtol=1e-4, atol=1e-4)


def test_no_tensor_is_kept(device):
    layer, x = convext.Conv2d(**FAMILIES["triton.igemm"], device=device), torch.randn(1, 2, SIZE, SIZE, device=device)
    with convext.backend("triton.igemm"):
        results = [layer(x.requires_grad_()) for _ in range(2)]
        torch.autograd.grad(sum(y.sum() for y in results), x)
    kept = [weakref.ref(t) for t in (x, layer.weight, *results)]
    assert calls._calls
    del layer, x, results
    gc.collect()
    assert [t() for t in kept] == [None] * 4


def test_a_backward_pass_is_plain():
    """So its gradients are looked up, too, and not asked of the dispatcher."""
    seen = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(is_plain(grad))
            return grad

    Asks.apply(torch.zeros(2, requires_grad=True)).sum().backward()
    assert seen == [True]
