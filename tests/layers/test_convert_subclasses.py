"""convext.convert on what is not exactly torch.nn's: subclasses, parametrizations, and code that calls functions."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import convext
from convext.conversion.calls import called_by


class Plain3d(nn.Conv3d):
    """As torchvision's Conv3DSimple: a constructor and a helper of its own, torch's forward."""

    def __init__(self, in_planes, out_planes, stride=1):
        super().__init__(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)

    @staticmethod
    def get_downsample_stride(stride):
        return stride


class Standardized(nn.Conv2d):
    """Comes back by `_conv_forward`."""

    def forward(self, x):
        w = (self.weight - self.weight.mean()) / self.weight.std()
        return self._conv_forward(x, w, self.bias)


class Doubling(Standardized):
    """Comes back by `super()`, twice."""

    def forward(self, x):
        return 2 * super().forward(x)


class Masked(nn.Conv1d):
    """Overrides what torch's forward calls, and comes back."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight.tril(), bias)


class Scaled(nn.ConvTranspose2d):
    def forward(self, x, output_size=None):
        return super().forward(x, output_size) * self.weight.sum()


class Mixed(nn.Conv1d):
    """With an attribute, a method and a name in print of its own."""

    scale = 3

    def extra_repr(self):
        return f"scale={self.scale}"


SUBCLASSES = {
    "its own constructor": (lambda: Plain3d(2, 3, stride=2), (2, 2, 5, 5, 5)),
    "by _conv_forward": (lambda: Standardized(2, 3, 3, padding=1), (2, 2, 5, 5)),
    "by super": (lambda: Doubling(2, 4, 3, groups=2, dilation=2), (2, 2, 7, 7)),
    "_conv_forward overridden": (lambda: Masked(2, 3, 2), (2, 2, 7)),
    "transposed": (lambda: Scaled(2, 3, 3, stride=2), (2, 2, 5, 5)),
    "extra_repr": (lambda: Mixed(2, 3, 3, padding_mode="circular", padding=1), (2, 2, 7)),
}
PARAMETRIZED = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), (2, 2, 7)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)).eval(), (2, 2, 5, 5)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Conv1d(2, 3, 3)), (2, 2, 7)),
    "transposed": (lambda: parametrizations.weight_norm(nn.ConvTranspose1d(2, 3, 3, 2)), (2, 2, 7)),
    "a subclass": (lambda: parametrizations.weight_norm(Doubling(2, 3, 3)), (2, 2, 5, 5)),
    "weight and bias": (
        lambda: parametrize.register_parametrization(
            parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), "bias", nn.Tanh()
        ),
        (2, 2, 5, 5),
    ),
}
HOOKED = {
    "old weight norm": (lambda: nn.utils.weight_norm(nn.Conv1d(2, 3, 3)), (2, 2, 7)),
    "old spectral norm": (lambda: nn.utils.spectral_norm(nn.Conv1d(2, 3, 3)).eval(), (2, 2, 7)),
}
ALL = {**SUBCLASSES, **{f"parametrized: {k}": v for k, v in PARAMETRIZED.items()}, **HOOKED}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
kinds = pytest.mark.parametrize(("make", "shape"), ALL.values(), ids=ALL)


def gradients(layer, x):
    return torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))


@kinds
def test_converted_with_all_that_it_was(make, shape, backend):
    layer, x, seen = make().double(), torch.randn(shape).double(), []
    torchs, expected, steps = type(layer), layer(x), gradients(layer, x)
    user = next(kind for kind in torchs.__mro__ if kind.__module__ != parametrize.__name__)
    state, parameters = layer.state_dict(), dict(layer.named_parameters())
    layer.register_forward_hook(lambda module, args, output: seen.append(module))
    net = nn.Sequential(layer)
    said = convext.report(convext.convert(net))
    assert (said.converted, said.left_alone) == (["0"], {})
    assert net[0] is layer
    assert isinstance(layer, user)
    assert isinstance(layer, convext.nn._DropIn)
    assert layer.state_dict().keys() == state.keys()
    assert all(p is parameters[name] for name, p in layer.named_parameters())
    assert str(net).splitlines()[1].startswith(f"  (0): convext.{torchs.__name__}(")
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(gradients(layer, x), steps)
    assert seen == [layer, layer]
    convext.revert(net)
    assert type(layer) is torchs
    assert convext.nn.CHANGE not in vars(layer)
    torch.testing.assert_close(layer(x), expected)
    assert "convext" not in str(net)


@kinds
def test_kernels_of_ours_run(make, shape):
    """Where one is asked for by name that takes nothing of the sort, the layer says so: it is ours that is called."""
    layer = convext.convert(make())
    with (
        convext.backend("plain.widened"),
        pytest.raises(ValueError, match="is for bfloat16 and float16"),
    ):
        layer(torch.randn(shape))


@kinds
def test_deep_copies(make, shape):
    if make in [make for make, _ in HOOKED.values()]:
        make = torch.no_grad()(make)  # torch copies only what has no graph
    layer, x = convext.convert(make()), torch.randn(shape)
    other = copy.deepcopy(layer)
    assert type(other) is type(layer)
    assert convext.report(other).converted == [""]
    torch.testing.assert_close(other(x), layer(x))
    convext.revert(other)
    assert not isinstance(other, convext.nn._DropIn)
    assert isinstance(layer, convext.nn._DropIn)
    torch.testing.assert_close(other(x), layer(x))


@pytest.mark.parametrize(("make", "shape"), SUBCLASSES.values(), ids=SUBCLASSES)
@pytest.mark.parametrize(
    "copied", [copy.copy, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in range(pickle.HIGHEST_PROTOCOL))]
)
def test_pickles_of_subclasses(copied, make, shape):
    layer, x = convext.convert(make()), torch.randn(shape)
    user = type(layer).__mro__[1]
    other = copied(layer)
    assert type(other) is type(layer)
    torch.testing.assert_close(other(x), layer(x))
    assert type(convext.revert(other)) is user
    assert type(layer) is not user
    assert b"convext" not in pickle.dumps(convext.revert(layer))


def test_layers_of_one_class_stay_of_one_class():
    net = convext.convert(nn.Sequential(Plain3d(1, 2), Plain3d(2, 2)))
    assert type(net[0]) is type(net[1])


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parametrizations_come_and_go_after_the_conversion(name):
    layer, x = parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), torch.randn(1, 2, 7)
    theirs = copy.deepcopy(layer)
    theirs.__class__ = type(theirs.__class__.__name__, (nn.Conv1d,), dict(vars(theirs.__class__)))
    convext.convert(layer)
    for each in (layer, theirs):
        parametrize.register_parametrization(each, name, nn.Tanh())
    torch.testing.assert_close(layer(x), theirs(x))
    convext.revert(layer)
    torch.testing.assert_close(layer(x), theirs(x))
    convext.convert(layer)
    for each in (layer, theirs):
        for tensor in list(each.parametrizations):
            parametrize.remove_parametrizations(each, tensor)
    assert type(layer) is convext.Conv1d
    torch.testing.assert_close(layer(x), theirs(x))
    assert type(convext.revert(layer)) is nn.Conv1d


def test_converted_subclasses_compile():
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), Doubling(3, 3, 3)).eval()
    x = torch.randn(1, 2, 8, 8)
    expected = net(x)
    compiled = torch.compile(convext.convert(net), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


# ------------------------------------------------------------------------------------------------- left alone


class Own(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias)


def helped(x, weight):
    return [F.conv2d(image[None], weight) for image in x]


class Helped(nn.Conv2d):
    """As timm's Conv2dSame: a function of its own calls torch's."""

    def forward(self, x):
        return torch.cat(helped(x, self.weight))


class Methodical(nn.Conv2d):
    def forward(self, x):
        return self.convolved(x)

    def convolved(self, x):
        return torch.nn.functional.conv2d(x, self.weight)


class Inner(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return F.conv2d(input, weight.abs(), bias)


class Both(nn.Module):
    """A layer, and two calls of its own."""

    def __init__(self):
        super().__init__()
        self.conv2d = nn.Conv2d(2, 2, 1)
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3))

    def forward(self, x):
        return F.conv_transpose2d(torch.conv2d(self.conv2d(x), self.weight), self.weight)


class Innocent(nn.Module):
    """Speaks of convolutions and calls none: an attribute's name, and a method that its forward does not reach."""

    def __init__(self):
        super().__init__()
        self.conv2d = nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.conv2d(x)

    def check(self, x):
        return F.conv2d(x, self.conv2d.weight)


class Nothing(nn.Conv2d):
    def forward(self, x):
        return x


def enclosed():
    """Its forward calls a function that it closes over, and one that is not there yet."""
    convolve = F.conv2d

    class Enclosed(nn.Conv2d):
        def forward(self, x):
            return convolve(x, self.weight) if x is not None else later(x)

    if Enclosed is None:
        later = None
    return Enclosed


@pytest.mark.parametrize("kind", [Own, Helped, Methodical, Inner, enclosed()])
def test_a_subclass_that_calls_functions_names_everywhere(kind):
    net = nn.Sequential(kind(2, 2, 3, bias=False))
    said = convext.report(convext.convert(net))
    assert type(net[0]) is kind
    assert said.converted == []
    assert said.left_alone["0"] == (
        f"{kind.__module__}.{kind.__qualname__} calls conv2d itself: run the model in `with convext.everywhere():`"
    )


def test_a_model_that_calls_functions_says_so():
    net = Both()
    said = convext.report(convext.convert(net))
    assert said.converted == ["conv2d"]
    assert list(said.left_alone) == [""]
    assert "Both calls conv2d and conv_transpose2d itself: run the model in `with" in said.left_alone[""]
    assert str(said).splitlines()[0] == "1 layer converted, 1 left alone"


def test_who_calls_no_function_is_not_named():
    said = convext.report(convext.convert(nn.Sequential(Innocent(), nn.Conv2d(2, 2, 1))))
    assert said.left_alone == {}
    assert len(said.converted) == 2
    assert called_by(nn.Conv2d) == called_by(convext.blocks.ASPP) == ()


def test_a_forward_without_a_convolution():
    said = convext.report(convext.convert(Nothing(2, 2, 3)))
    assert "Nothing has a forward of its own, which does not call torch.nn's" in said.left_alone[""]


def test_what_stays_is_grouped_by_reason():
    net = nn.Sequential(*(Own(2, 2, 1) for _ in range(58)), Nothing(2, 2, 1), nn.LazyConv2d(2, 1), nn.Conv2d(2, 2, 1))
    said = convext.report(convext.convert(net))
    assert len(said.left_alone) == 60
    assert str(said).splitlines() == [
        "1 layer converted, 60 left alone",
        f"  0, 1, 2 and 55 more: {said.left_alone['0']}",
        f"  58: {said.left_alone['58']}",
        "  59: LazyConv2d has no shape yet: run the model once, then convert",
    ]


@pytest.mark.parametrize("function", [convext.convert, convext.report, convext.revert])
def test_what_is_no_model_is_refused(function):
    with pytest.raises(TypeError, match=rf"convext\.{function.__name__} takes a torch\.nn\.Module, but got str: 'x'"):
        function("x")


def test_what_is_convexts_already_is_not_named():
    net = nn.Sequential(convext.ShortConvolution(4, 3), convext.layers.TrueConv1d(4, 4, 3))
    assert convext.report(convext.convert(net)) == convext.Report()
