"""torch.compile and torch.export of the layers and of the operators."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from geometries import GEOMETRIES, operator
from torch._dynamo.testing import CompileCounterWithBackend, EagerAndRecordGraphs

import convext
from convext.problem import OPEN

LAYERS = {
    "Conv1d": (lambda: convext.Conv1d(3, 4, 3, padding="causal"), (2, 3, 8)),
    "Conv2d": (lambda: convext.Conv2d(4, 6, 3, stride=2, padding="same", groups=2), (2, 4, 7, 6)),
    "Conv3d": (lambda: convext.Conv3d(2, 2, 2, padding=((1, 0), (0, 1), (1, 1))), (2, 2, 3, 4, 3)),
    "ConvTranspose1d": (lambda: convext.ConvTranspose1d(3, 4, 3, stride=2, output_padding=1), (2, 3, 5)),
    "ConvTranspose2d": (lambda: convext.ConvTranspose2d(4, 6, 3, padding=1, groups=2), (2, 4, 4, 5)),
    "ConvTranspose3d": (lambda: convext.ConvTranspose3d(2, 2, 2, dilation=2), (2, 2, 3, 2, 3)),
}


# The zeros of the convolutions' paddings, as torch.nn.functional.pad takes them.
ZEROS = {"Conv1d": (2, 0), "Conv2d": (0, 1, 1, 1), "Conv3d": (1, 1, 0, 1, 1, 0)}


def torchs(layer, x):
    """`layer(x)` by torch.nn.functional."""
    kind, of = type(layer).__name__, (layer.weight, layer.bias, layer.stride)
    if kind in ZEROS:
        convolution = getattr(F, kind.lower())
        return convolution(F.pad(x, ZEROS[kind]), *of, 0, layer.dilation, layer.groups)
    convolution = getattr(F, kind.lower().replace("transpose", "_transpose"))
    return convolution(x, *of, layer.padding, layer.output_padding, layer.groups, layer.dilation)


@pytest.fixture(params=LAYERS)
def layer_and_input(request, device):
    torch.compiler.reset()
    make, shape = LAYERS[request.param]
    return make().to(device), torch.randn(shape, device=device)


def assert_same_step(compiled, layer, x):
    """Output, and gradients of input and parameters, against torch's."""
    results = []
    for function in (compiled, partial(torchs, layer)):
        x = x.detach().requires_grad_()
        y = function(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    assert results[0][0].stride() == results[1][0].stride()


def test_layers_in_one_graph(layer_and_input, backend):
    layer, x = layer_and_input
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_step(compiled, layer, x)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), torchs(layer, x))


def test_layers_of_any_batch_are_compiled_once(layer_and_input, backend):
    layer, x = (each.double() for each in layer_and_input)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for batch in (10, 11, 13):  # no size of any layer: the compiler takes equal sizes for one
        assert_same_step(compiled, layer, torch.cat([x] * batch)[:batch])
    assert counter.frame_count == 1


def test_a_change_of_backend_recompiles(device):
    torch.compiler.reset()
    layer, x = convext.Conv2d(3, 4, 3, device=device), torch.randn(1, 3, 5, 5, device=device)
    counter = EagerAndRecordGraphs()
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for name in ("auto", "aten", "auto"):
        with convext.backend(name):
            torch.testing.assert_close(compiled(x), F.conv2d(x, layer.weight, layer.bias))
    assert len(counter.graphs) == 2
    assert "convext.fprop" in counter.graphs[1].code


def test_operators_in_one_graph(face, geometry, device):
    torch.compiler.reset()
    tensors = geometry.draw(face, device, torch.float32)

    def function(a, b, bias):
        return operator(face)(a, b, bias, *geometry.tail(face), "auto").relu()

    expected = geometry.torchs(face)(*tensors).relu()
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_inductor_takes_the_operators_as_they_are(memory_format, device):
    """Two operators in a row and nothing to generate code for, so no compiler is needed."""
    torch.compiler.reset()
    net = torch.nn.Sequential(convext.Conv2d(3, 4, 3, padding=1), convext.ConvTranspose2d(4, 2, 2, 2)).to(device)
    x = torch.randn(2, 3, 6, 5, device=device).to(memory_format=memory_format)
    with convext.backend("aten"), torch.no_grad():
        actual = torch.compile(net, fullgraph=True)(x)
        hidden = F.conv2d(x, net[0].weight, net[0].bias, padding=1)
        expected = F.conv_transpose2d(hidden, net[1].weight, net[1].bias, stride=2)
    torch.testing.assert_close(actual, expected)
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_layers(strict, layer_and_input, backend):
    layer, x = layer_and_input
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},), strict=strict)
    for n in (1, 2, 5):
        input = torch.cat([x] * 5)[:n]
        torch.testing.assert_close(exported.module()(input), torchs(layer, input))
    if backend == "aten":
        face = "dgrad" if "Transpose" in type(layer).__name__ else "fprop"
        assert f"convext.{face}" in exported.graph_module.code


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_operators(strict, face, device):
    geometry = GEOMETRIES[2]
    tensors = geometry.draw(face, device, torch.float32)

    class Module(torch.nn.Module):
        def forward(self, a, b, bias):
            return operator(face)(a, b, bias, *geometry.tail(face), "auto")

    exported = torch.export.export(Module(), tensors, strict=strict)
    torch.testing.assert_close(exported.module()(*tensors), geometry.torchs(face)(*tensors))


def test_fake_tensors_of_a_symbolic_batch(face, device):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    geometry = GEOMETRIES[2]
    a, b, _ = geometry.draw(face, device)
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def symbolic(t, role_has_batch):
        sizes = [DimDynamic.DYNAMIC if role_has_batch and i == 0 else DimDynamic.STATIC for i in range(t.dim())]
        return mode.from_tensor(t, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    fakes = symbolic(a, True), symbolic(b, face == "wgrad")
    with mode:
        result = operator(face)(*fakes, None, *geometry.tail(face), "auto")
    assert tuple(map(int, result.shape)) == tuple(geometry.shapes[OPEN[face]])
    if face != "wgrad":
        assert isinstance(result.shape[0], torch.SymInt)
