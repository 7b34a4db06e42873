"""`convext.backend` and `convext.precision`: whose calls they reach, in threads and in recomputations too."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import convext
from convext.choice import registry, settings
from convext.operators import forward


class Recorder(TorchDispatchMode):
    """The operators that run inside it."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.ran.append(str(function))
        return function(*arguments, **(keywords or {}))

    def convolutions(self):
        return [name for name in self.ran if "conv" in name]


CALLS = {
    "stride of numpy": lambda F, x, w: F.conv2d(x, w, stride=np.int64(2)),
    "dilation of numpy": lambda F, x, w: F.conv2d(x, w, dilation=np.int32(2)),
    "padding of numpy": lambda F, x, w: F.conv2d(x, w, padding=np.int64(1)),
    "groups of numpy": lambda F, x, w: F.conv2d(x, w[:, :2], groups=np.int64(2)),
    "torch.Size": lambda F, x, w: F.conv2d(x, w, stride=torch.Size((2, 2)), padding=torch.Size((1, 0))),
    "lists": lambda F, x, w: F.conv2d(x, w, stride=[2, 1], padding=[1, 0], dilation=[1]),
    "tensors": lambda F, x, w: F.conv2d(x, w, stride=(torch.tensor(2), torch.tensor(1))),
    "unbatched": lambda F, x, w: F.conv2d(x[0], w),
    "dilated": lambda F, x, w: F.conv2d(x, w, dilation=(2, 3)),
    "as many groups as channels": lambda F, x, w: F.conv2d(x, w[:, :1], groups=4),
    "transposed, unbatched": lambda F, x, w: F.conv_transpose2d(x[0], w),
    "transposed, dilated": lambda F, x, w: F.conv_transpose2d(x, w, dilation=(2, 3)),
    "transposed, as many groups as channels": lambda F, x, w: F.conv_transpose2d(x, w, groups=4),
    "transposed, stride of numpy": lambda F, x, w: F.conv_transpose2d(x, w, stride=np.int64(2)),
    "transposed, padding of numpy": lambda F, x, w: F.conv_transpose2d(x, w, padding=(np.int64(1), 0)),
    "transposed, output_padding of numpy": lambda F, x, w: F.conv_transpose2d(x, w, None, 2, 0, np.int64(1)),
    "transposed, torch.Size": lambda F, x, w: F.conv_transpose2d(x, w, stride=torch.Size((2, 1))),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_spelling_of_integers_bypasses_a_backend(name, device):
    x, w = torch.randn(1, 4, 8, 7, device=device), torch.randn(4, 4, 3, 3, device=device)
    with convext.backend("aten"), Recorder() as recorder, torch.no_grad():
        actual = CALLS[name](convext.functional, x, w)
    torch.testing.assert_close(actual, CALLS[name](torch.nn.functional, x, w))
    assert recorder.convolutions() == ["convext.dgrad.default" if "transposed" in name else "convext.fprop.default"]


@pytest.mark.parametrize("padding", [[[1, 2], [0, 0]], ([1, 2], 0), [(1, 2), (0, 0)]], ids=str)
def test_pairs_as_lists(padding, backend, device):
    x, w = torch.randn(1, 3, 8, 8, device=device), torch.randn(4, 3, 3, 3, device=device)
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 0, 1, 2)), w)
    torch.testing.assert_close(convext.functional.conv2d(x, w, padding=padding), expected)


@pytest.mark.parametrize("padding", [((1, 2), (0, 3)), ((1, 2), 0)], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_paddings_that_torch_lacks_are_ours_on_a_cpu_too(padding, requires_grad):
    """Without a padded copy, which torch's own convolution would need."""
    x, w = torch.randn(1, 3, 8, 8, requires_grad=requires_grad), torch.randn(4, 3, 3, 3)
    with Recorder() as recorder:
        convext.functional.conv2d(x, w, padding=padding)
    assert recorder.ran == ["convext.fprop.default"]


@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize(
    ("stride", "padding", "pads"), [(1, ((1, 2), (0, 3)), (0, 3, 1, 2)), (2, "same", (0, 1, 1, 1))], ids=str
)
def test_integers_have_every_padding(stride, padding, pads, batch, backend):
    x, w = torch.randint(-9, 9, (*batch, 3, 7, 8)), torch.randint(-9, 9, (4, 3, 3, 3))
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(x, pads), w, stride=stride)
    assert torch.equal(convext.functional.conv2d(x, w, stride=stride, padding=padding), expected)


KINDS = [f"conv{transposed}{rank}d" for transposed in ("", "_transpose") for rank in (1, 2, 3)]


@pytest.mark.parametrize("name", KINDS)
def test_fx_records_our_function(name, device):
    """Traced under any backend, run under a named one: the named one runs."""

    class Module(torch.nn.Module):
        def forward(self, x, w):
            return getattr(convext.functional, name)(x, w, None, 2, 1).relu()

    graph = torch.fx.symbolic_trace(Module())
    x, w = (
        torch.randn(1, 4, *[8] * int(name[-2]), device=device),
        torch.randn(4, 4, *[3] * int(name[-2]), device=device),
    )
    with convext.backend("aten"), Recorder() as recorder, torch.no_grad():
        actual = graph(x, w)
    assert recorder.convolutions() == ["convext.dgrad.default" if "transpose" in name else "convext.fprop.default"]
    torch.testing.assert_close(actual, getattr(torch.nn.functional, name)(x, w, None, 2, 1).relu())


@pytest.mark.parametrize("kernel", ["auto", "aten", "triton", "cuda"])
@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_shapes_of_meta_tensors(kind, kernel):
    x = torch.empty(1, 3, 8, 7, device="meta").to(memory_format=torch.channels_last)
    with convext.backend(kernel):
        y = getattr(convext, kind)(3, 4, 3, stride=2, device="meta")(x)
    expected = getattr(torch.nn, kind)(3, 4, 3, stride=2)(torch.empty(x.shape))
    assert y.is_meta
    assert y.shape == expected.shape


def test_a_problem_names_its_gpu_and_how_float32_is_multiplied_there(monkeypatch):
    monkeypatch.setattr(registry, "arch", lambda device: 80 + 10 * device.index)
    gpu = torch.device("cuda", 1)
    with convext.precision("tf32x3"):
        assert forward.machine(SimpleNamespace(device=gpu, dtype=torch.float32)) == ("cuda", 90, "tf32x3")
        assert forward.machine(SimpleNamespace(device=gpu, dtype=torch.float64)) == ("cuda", 90, "ieee")
        assert forward.machine(SimpleNamespace(device=gpu, dtype=torch.bfloat16)) == ("cuda", 90, "ieee")
        assert forward.machine(torch.empty(1)) == ("cpu", 0, "ieee")
        assert forward.machine(torch.empty(1, device="meta")) == ("meta", 0, "ieee")


def test_threads_may_leave_in_any_order():
    before = settings.BACKEND, settings.PRECISION
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with convext.backend("aten"), convext.precision("ieee"):
            first_in.set()
            second_in.wait()
        first_out.set()

    def second():
        first_in.wait()
        with convext.backend("aten.convolution"), convext.precision("tf32"):
            second_in.set()
            first_out.wait()
            assert settings.BACKEND == "aten.convolution"

    threads = [threading.Thread(target=function) for function in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == (settings.BACKEND, settings.PRECISION)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize(("forward", "backward"), [("aten", "auto"), ("auto", "aten")])
def test_recomputations_run_under_the_settings_of_their_forward(forward, backward, use_reentrant, device):
    """By torch's checkpoint, which would run other operators, or stop because they save other tensors."""
    net = torch.nn.Sequential(convext.Conv2d(2, 3, 3), torch.nn.ReLU(), convext.Conv2d(3, 2, 3)).to(device)
    x = torch.randn(1, 2, 8, 8, device=device, requires_grad=use_reentrant)
    net(x).sum().backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    with convext.backend(forward), convext.precision("ieee"), Recorder() as recorder:
        y = checkpoint(net, x, use_reentrant=use_reentrant)
    ran = recorder.convolutions()
    with convext.backend(backward), Recorder() as recorder:
        y.sum().backward()
    forwards = {"convext.fprop.default", "aten.convolution.default"}
    again = [name for name in recorder.convolutions() if name in forwards]
    assert again
    assert again == ran[: len(again)]  # the kind that is not reentrant stops as soon as it has what it needs
    for p, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
