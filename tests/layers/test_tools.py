"""Tools that know torch.nn's layers by exact type or by name take convext's as they take torch's."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

import convext
from convext import layers
from convext.tools import decompositions

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit", "ignore:Using padding='same' with even kernel", "ignore::DeprecationWarning"
)

PADDINGS = [
    {},
    {"padding": 1, "groups": 2},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": "same", "stride": 2},
    {"padding": "same", "stride": 4},  # beyond the kernel: no zeros at all
    {"padding": "pairs"},
    {"padding": "pairs", "padding_mode": "replicate"},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": "same", "stride": 2, "padding_mode": "reflect"},
    {"padding": "causal", "dilation": 2, "stride": 2},
]
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
CATALOGUE = {
    "Depthwise": (4, 3),
    "Pointwise": (4, 4),
    "Grouped": (4, 4, 3, 2),
    "Dilated": (4, 4, 3, 2),
    "Circular": (4, 4, 3),
    "True": (4, 4, 3),
    "DepthwiseSeparable": (4, 4, 3),
}


def sample(rank, channels=4):
    return torch.randn(2, channels, *(9, 8, 7)[:rank])


def reference(layer, x):
    """What a convolution with any padding has to say, by torch's pad and convolution in one."""
    rank, k, s, d = len(layer.kernel_size), layer.kernel_size, layer.stride, layer.dilation
    space = x.shape[-rank:]
    if layer.padding == "causal":
        pairs = [(d[0] * (k[0] - 1), 0)]
    elif layer.padding == "same":
        total = [max((-(-i // t) - 1) * t + e * (n - 1) + 1 - i, 0) for i, t, e, n in zip(space, s, d, k, strict=True)]
        pairs = [(t // 2, t - t // 2) for t in total]
    elif layer.padding == "valid":
        pairs = [(0, 0)] * rank
    else:
        pairs = [p if isinstance(p, tuple) else (p, p) for p in layer.padding]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, [side for pair in reversed(pairs) for side in pair], mode)
    conv = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[rank - 1]
    return conv(x, layer.weight, layer.bias, s, 0, d, layer.groups)


def convolutions():
    for rank in (1, 2, 3):
        for arguments in PADDINGS:
            if arguments.get("padding") == "causal" and rank > 1:
                continue
            if arguments.get("padding") == "pairs":
                arguments = {**arguments, "padding": ((1, 2), (0, 1), (2, 0))[:rank]}
            yield pytest.param((rank, arguments), id=f"{rank}-D {arguments}")


@pytest.fixture(params=convolutions())
def convolution(request):
    rank, arguments = request.param
    return getattr(convext, f"Conv{rank}d")(4, 6, 3, **arguments), sample(rank)


@pytest.fixture(params=[f"{kind}Conv{rank}d" for kind in CATALOGUE for rank in (1, 2, 3)] + ["CausalConv1d"])
def named(request):
    arguments = CATALOGUE.get(request.param.removesuffix(request.param[-6:]), (4, 4, 3))
    return getattr(layers, request.param)(*arguments), sample(int(request.param[-2]))


# ------------------------------------------------------------------------------------------------- TorchScript


def test_scripted_convolutions(convolution):
    layer, x = convolution
    scripted = torch.jit.script(nn.Sequential(layer))
    torch.testing.assert_close(scripted(x), reference(layer, x))
    torch.testing.assert_close(scripted(x[0]), reference(layer, x[:1])[0])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [None, 18])
def test_scripted_transposed(rank, size):
    ours = getattr(convext, f"ConvTranspose{rank}d")(4, 6, 3, stride=2, padding=1, output_padding=1)
    theirs = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, stride=2, padding=1, output_padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *[9] * rank)
    size = None if size is None else [size] * rank
    scripted = torch.jit.script(ours)
    torch.testing.assert_close(scripted(x, size), theirs(x, size))
    torch.testing.assert_close(scripted(x[0], size), theirs(x[0], size))


def test_scripted_named_layers(named):
    layer, x = named
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))  # layer(x) is held to torch elsewhere


def test_a_converted_model_is_scripted_and_stays_converted():
    net, x = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2)), sample(2)
    expected = net(x)
    convext.convert(net)
    torch.testing.assert_close(torch.jit.script(net)(x), expected)
    assert convext.report(net).converted == ["0", "2"]
    assert type(net[0]) is convext.Conv2d


# --------------------------------------------------------------------------------------------------- torch.fx


def test_a_layer_is_a_leaf(convolution, backend):
    layer, x = convolution
    graph = fx.symbolic_trace(nn.Sequential(layer))
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    assert graph.get_submodule("0") is layer
    torch.testing.assert_close(graph(x), reference(layer, x))


@pytest.mark.parametrize("size", [None, (11, 10)])
def test_a_transposed_layer_is_a_leaf(size, backend):
    class Net(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.up = module.ConvTranspose2d(4, 3, 3)

        def forward(self, x):
            return self.up(x, size)

    ours, theirs, x = Net(convext), Net(nn), sample(2)
    theirs.load_state_dict(ours.state_dict())
    graph = fx.symbolic_trace(ours)
    assert [n.op for n in graph.graph.nodes] == [n.op for n in fx.symbolic_trace(theirs).graph.nodes]
    torch.testing.assert_close(graph(x), theirs(x))


def test_a_layer_that_is_the_root_is_traced_through(convolution, backend):
    layer, x = convolution
    graph = fx.symbolic_trace(layer)
    torch.testing.assert_close(graph(x), reference(layer, x))
    assert "call_module" not in {node.op for node in graph.graph.nodes}
    torch.testing.assert_close(pickle.loads(pickle.dumps(graph))(x), reference(layer, x))


def test_a_subclass_is_traced_through(backend):
    class Doubled(convext.Conv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    layer, x = Doubled(4, 6, 3, padding=((1, 2), 0)), sample(2)
    graph = fx.symbolic_trace(nn.Sequential(layer))
    torch.testing.assert_close(graph(x), 2 * reference(layer, x))


def test_traced_named_layers(named, backend):
    layer, x = named
    torch.testing.assert_close(fx.symbolic_trace(nn.Sequential(layer))(x), layer(x))  # held to torch elsewhere


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fx_folds_batch_norm_into_a_converted_layer(rank):
    torchs = nn.Sequential(getattr(nn, f"Conv{rank}d")(4, 6, 3), getattr(nn, f"BatchNorm{rank}d")(6))
    x = sample(rank)
    torchs(x)
    torchs.eval()
    ours = convext.convert(copy.deepcopy(torchs))
    fused = fuse(ours)
    assert [n.op for n in fused.graph.nodes] == [n.op for n in fuse(torchs).graph.nodes]
    assert type(fused.get_submodule("0")) is getattr(convext, f"Conv{rank}d")
    torch.testing.assert_close(fused(x), torchs(x))


def test_fx_leaves_other_modules_to_its_own_rules():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()
    assert [str(n.target) for n in fuse(net).graph.nodes] == ["input", "0", "2", "output"]


# ------------------------------------------------------------------------------------------------- exporters


def exported(layer, x, backend):
    """Run with the operators replaced as exporters that know torch's operators only replace them."""
    with convext.backend(backend):
        program = torch.export.export(layer.eval(), (x,))
    program = program.run_decompositions(decompositions.TABLE)
    assert not any("convext" in str(node.target) for node in program.graph.nodes)
    return program.module()(x)


def test_exported_convolutions(convolution):
    layer, x = convolution
    torch.testing.assert_close(exported(layer, x, "aten"), reference(layer, x))


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize(
    "arguments", [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"dilation": 3, "bias": False}]
)
def test_exported_transposed(name, pair, arguments):
    ours, theirs = pair(name, 4, 6, 3, **arguments)
    ours, theirs, x = ours.cpu(), theirs.cpu(), sample(int(name[-2]))
    torch.testing.assert_close(exported(ours, x, "aten"), theirs(x))


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("pad", [(0, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("more", [-2, 0, 1, 4])
def test_the_decomposition_of_any_dgrad_is_the_gradient(pad, after, more):
    """Of a convolution with `pad` zeros before and any number after each axis: by torch.autograd."""
    w, size = torch.randn(4, 2, 3, 3, dtype=torch.float64), (9 + more, 8 + more)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    around = nn.functional.pad(x, (pad[1], after, pad[0], after))
    y = nn.functional.conv2d(around, w, None, 2, 0, 1, 2)
    by_y = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, by_y)
    arguments = (by_y, w, torch.zeros(4, dtype=w.dtype), list(size), [2, 2], list(pad), [1, 1], 2, "aten")
    torch.testing.assert_close(decompositions.dgrad(*arguments), expected)


@pytest.mark.filterwarnings("ignore")
def test_onnx():
    pytest.importorskip("onnxscript", reason="onnx and onnxscript are not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    for layer, x in (
        (convext.Conv1d(4, 6, 3, padding="causal", dilation=2), sample(1)),
        (convext.Conv1d(4, 6, 3, padding="causal", stride=2), sample(1)),
        (convext.Conv2d(4, 6, 3, padding="same", stride=2), sample(2)),
        (convext.Conv3d(4, 6, 3, padding=((1, 2), 0, (2, 0))), sample(3)),
        (convext.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), sample(2)),
    ):
        for name in ("auto", "aten"):
            with convext.backend(name):
                program = torch.onnx.export(layer.eval(), (x,), dynamo=True, verbose=False)
            session = runtime.InferenceSession(program.model_proto.SerializeToString())
            (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            torch.testing.assert_close(torch.from_numpy(y), reference(layer, x), atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------ counters, skip_init


@pytest.mark.filterwarnings("ignore")
def test_thop_counts_converted_layers():
    thop = pytest.importorskip("thop", reason="thop is not installed")
    net, x = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 3)), torch.randn(1, 4, 8, 8)
    expected = thop.profile(copy.deepcopy(net), (x,), verbose=False)
    assert thop.profile(convext.convert(net), (x,), verbose=False) == expected


def test_a_counter_is_taught_when_it_is_imported(tmp_path, monkeypatch):
    """A package with a table by type, by the name of one that is known."""
    import sys

    monkeypatch.delitem(sys.modules, "ptflops", raising=False)
    monkeypatch.delitem(sys.modules, "ptflops.pytorch_ops", raising=False)
    package = tmp_path / "ptflops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pytorch_ops.py").write_text("from torch import nn\nMODULES_MAPPING = {nn.Conv2d: 'convolution'}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import ptflops.pytorch_ops

    assert {nn.Conv2d: "convolution", convext.Conv2d: "convolution"} == ptflops.pytorch_ops.MODULES_MAPPING
    monkeypatch.delitem(sys.modules, "ptflops")
    monkeypatch.delitem(sys.modules, "ptflops.pytorch_ops")


def test_skip_init(named):
    layer, x = named
    arguments = CATALOGUE.get(type(layer).__name__[:-6], (4, 4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = nn.utils.skip_init(type(layer), *arguments, dtype=torch.float64)
    assert all(p.dtype == torch.float64 and p.device.type == "cpu" for p in made.parameters())
    made.load_state_dict(layer.state_dict())
    torch.testing.assert_close(made(x.double()), layer.double()(x.double()))


def test_skip_init_of_the_six(name):
    assert nn.utils.skip_init(getattr(convext, name), 4, 6, 3).weight.device.type == "cpu"
