"""Shapes, costs, receptive fields, coverage, overlap and equivalences: against numbers, and against each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convext import analysis, blocks, layers
from convext.nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

# ------------------------------------------------------------------------------------------------- shapes and costs


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "stride", "dilation", "expected"),
    [
        (4, 3, 0, 1, 1, 2),  # no padding, no strides
        (5, 4, 2, 1, 1, 6),  # arbitrary padding
        (5, 3, 1, 1, 1, 5),  # half padding: the same size
        (5, 3, 2, 1, 1, 7),  # full padding: size + kernel - 1
        (5, 3, 0, 2, 1, 2),  # strides
        (5, 3, 1, 2, 1, 3),  # padded strides
        (6, 3, 1, 2, 1, 3),  # odd padded strides: the last row is never read
        (7, 3, 0, 1, 2, 3),  # dilation
        (6, 3, 0, 1, 1, 4),
        (224, 7, 3, 2, 1, 112),
    ],
)
def test_output_shape(size: int, kernel: int, padding: int, stride: int, dilation: int, expected: int) -> None:
    layer = Conv2d(3, 8, kernel, stride, padding, dilation)
    assert analysis.output_shape(layer, (1, 3, size, size)) == (1, 8, expected, expected)
    wider = (size + 3 + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1  # height and width on their own
    assert analysis.output_shape(layer, (1, 3, size, size + 3)) == (1, 8, expected, wider)


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "stride", "extra", "expected"),
    [(2, 3, 0, 1, 0, 4), (6, 4, 2, 1, 0, 5), (5, 3, 1, 1, 0, 5), (7, 3, 2, 1, 0, 5), (2, 3, 0, 2, 0, 5),
     (3, 3, 1, 2, 0, 5), (3, 3, 1, 2, 1, 6)],
)  # fmt: skip
def test_transposed_output_shape(
    size: int, kernel: int, padding: int, stride: int, extra: int, expected: int
) -> None:  # fmt: skip
    layer = ConvTranspose2d(3, 8, kernel, stride, padding, extra)
    assert analysis.output_shape(layer, (1, 3, size, size)) == (1, 8, expected, expected)


def test_output_shape_of_a_structure() -> None:
    assert analysis.output_shape(blocks.WaveNetBlock(3), (2, 3, 9)) == ((2, 3, 9), (2, 3, 9))


def test_flops_and_parameters() -> None:
    layer = Conv2d(3, 4, 3, padding="same", stride=2)
    assert analysis.flops(layer, (2, 3, 9, 7)) == 2 * 2 * 4 * (5 * 4) * 27
    assert analysis.flops(ConvTranspose2d(4, 3, 3, stride=2), (1, 4, 5, 5)) == 2 * 25 * 4 * 27
    assert analysis.parameters(layer) == 4 * 27 + 4
    assert analysis.parameters(nn.ModuleList([layer, layer])) == 4 * 27 + 4
    assert analysis.flops(blocks.WaveNetStack(8, 3), (1, 8, 10)) == 3 * 10 * 2 * (2 * 16 * 8 + 64)


# ------------------------------------------------------------------------------------------------ receptive field


@pytest.mark.parametrize(("dilation", "field"), [(1, 3), (2, 5), (4, 9), (8, 17), (16, 33)])
def test_receptive_field_of_a_layer(dilation: int, field: int) -> None:
    layer = layers.DilatedConv2d(2, 2, 3, dilation)
    assert analysis.receptive_field(layer) == (field, field)
    assert analysis.receptive_field(layer, torch.randn(1, 2, 40, 41)) == (field, field)


def test_receptive_field_of_stacks() -> None:
    doubling = [layers.CausalConv1d(1, 1, 2, dilation=2**i) for i in range(8)]
    fields = [analysis.receptive_field(nn.Sequential(*doubling[: n + 1]))[0] for n in range(8)]
    assert fields == [2, 4, 8, 16, 32, 64, 128, 256]
    stack = nn.Sequential(*(Conv1d(1, 1, 3, padding=2**i, dilation=2**i) for i in range(6)))
    assert analysis.receptive_field(stack) == (127,)
    assert analysis.receptive_field(stack[-1]) == (65,)
    assert analysis.receptive_field(stack, torch.randn(1, 1, 150)) == (127,)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Conv1d(2, 3, 3, stride=2), nn.ReLU(), Conv1d(3, 2, 5, stride=3, dilation=2)),
        nn.Sequential(Conv1d(2, 3, 4, padding=1), nn.MaxPool1d(2), nn.BatchNorm1d(3), layers.DepthwiseConv1d(3, 3)),
        nn.Sequential(nn.AvgPool1d(3, 2), nn.Sequential(Conv1d(2, 2, 2), nn.Tanh()), nn.MaxPool1d(3, 1, dilation=4)),
        nn.Conv1d(2, 2, 7, padding=3, padding_mode="zeros", groups=2),
    ],
)
def test_closed_form_is_what_is_measured(model: nn.Module) -> None:
    assert analysis.receptive_field(model) == analysis.receptive_field(model, torch.randn(1, 2, 61))


def test_receptive_field_sees_through_functions_branches_and_zeros() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kernel = torch.zeros(2, 1, 5, dtype=x.dtype)
            return F.relu(-x.abs()) + torch.sigmoid(1e9 * F.conv1d(x, kernel, padding=2, groups=2))

    assert analysis.receptive_field(Branches(), torch.randn(1, 2, 20)) == (5,)
    with pytest.raises(ValueError, match="no closed form for Branches"):
        analysis.receptive_field(Branches())


def test_global_pooling_reads_everything() -> None:
    model = nn.Sequential(Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    assert analysis.receptive_field(model, torch.randn(1, 2, 9, 8)) == (9, 8)


def test_an_output_of_padding_alone_has_no_receptive_field() -> None:
    with pytest.raises(ValueError, match="reads no input at all"):
        analysis.receptive_field(Conv1d(1, 1, 2, dilation=9, padding=9), torch.randn(1, 1, 3))


def test_measuring_leaves_the_model_alone() -> None:
    model = nn.Sequential(Conv1d(1, 1, 3), nn.BatchNorm1d(1))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    analysis.receptive_field(model, torch.randn(1, 1, 9))
    assert model.training
    assert model[0].weight.dtype == torch.float32
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(("k", "s", "p", "d"), [(3, 1, 1, 1), (3, 2, 1, 1), (2, 1, 0, 3), (4, 3, 2, 2)])
def test_dependence_is_the_index_equation(k: int, s: int, p: int, d: int) -> None:
    found = analysis.dependence(Conv1d(2, 3, k, s, p, d), torch.randn(1, 2, 17))
    outputs = (17 + 2 * p - d * (k - 1) - 1) // s + 1
    expected = torch.zeros(outputs, 17, dtype=torch.bool)
    for o in range(outputs):
        for t in range(k):
            if 0 <= (i := o * s + t * d - p) < 17:
                expected[o, i] = True
    assert torch.equal(found, expected)
    transposed = analysis.dependence(ConvTranspose1d(3, 2, k, s, p, 0, dilation=d), torch.randn(1, 3, outputs))
    assert torch.equal(transposed, expected.T[: transposed.shape[0]])


# ---------------------------------------------------------------------------------------------- gridding and overlap


@pytest.mark.parametrize(
    ("kernel", "dilations", "read", "field"),
    [
        (3, [2, 2, 2, 2], 9, 17),
        (3, [2, 3, 2, 3], 19, 21),
        (3, [1, 2, 5], 17, 17),
        (3, [1, 2, 4, 8, 16, 32], 127, 127),
        (3, [2, 4, 8], 15, 29),
        (3, [4, 4, 4], 7, 25),
        (2, [2**i for i in range(8)], 256, 256),
        (2, [2 ** (i % 10) for i in range(30)], 3070, 3070),
    ],
)
def test_coverage(kernel: int, dilations: list[int], read: int, field: int) -> None:
    assert analysis.coverage(kernel, dilations) == analysis.Coverage(read, field)
    if field < 200:
        stack = nn.Sequential(*(layers.DilatedConv1d(1, 1, kernel, d) for d in dilations))
        measured = analysis.reads(stack, torch.randn(1, 1, field + 20))
        assert torch.equal(measured, analysis.paths(kernel, dilations) > 0)


def test_coverage_as_a_number() -> None:
    assert round(analysis.coverage(3, [2, 2, 2, 2]).ratio, 4) == 0.5294
    assert round(analysis.coverage(3, [2, 3, 2, 3]).ratio, 4) == 0.9048
    assert str(analysis.coverage(3, [4, 4, 4])) == "7/25"


def test_paths_count_ways() -> None:
    assert analysis.paths(3, [1, 1]).tolist() == [1, 2, 3, 2, 1]
    assert analysis.paths(3, [2, 2]).tolist() == [1, 0, 2, 0, 3, 0, 2, 0, 1]


def test_hdc_criterion() -> None:
    assert analysis.hdc(3, [1, 2, 5]) == 2
    assert analysis.hdc(3, [1, 2, 9]) == 5
    with pytest.raises(ValueError, match="at least two"):
        analysis.hdc(3, [2])


@pytest.mark.parametrize(
    ("kernel", "stride", "interior"),
    [(3, 2, [1, 2, 1, 2]), (4, 2, [2, 2, 2]), (5, 3, [1, 2, 2, 1]), (6, 3, [2, 2, 2]), (2, 2, [1, 1, 1]),
     (3, 3, [1, 1, 1]), (1, 2, [1, 0, 1, 0])],
)  # fmt: skip
def test_overlap(kernel: int, stride: int, interior: list[int]) -> None:
    counts = analysis.overlap(kernel, stride)
    ones = F.conv_transpose1d(torch.ones(1, 1, 9), torch.ones(1, 1, kernel), stride=stride)[0, 0].int().tolist()
    begin = stride * (kernel // stride)  # past the border, at the first output of a period
    assert tuple(ones[begin : begin + stride]) == counts
    inside = ones[begin : 9 * stride - stride]
    assert any(inside[i : i + len(interior)] == interior for i in range(len(inside) - len(interior) + 1))
    assert (len(set(counts)) == 1) == (kernel % stride == 0)


def test_overlap_in_two_dimensions_goes_from_one_to_four() -> None:
    counts = torch.tensor(analysis.overlap(3, 2))
    assert torch.outer(counts, counts).unique().tolist() == [1, 2, 4]
    assert F.conv_transpose2d(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), stride=2).max() == 4


def test_overlap_with_dilation() -> None:
    ones = F.conv_transpose1d(torch.ones(1, 1, 9), torch.ones(1, 1, 4), stride=2, dilation=2)[0, 0].int().tolist()
    assert analysis.overlap(4, 2, dilation=2) == (4, 0) == tuple(ones[8:10])


def test_dead_taps() -> None:
    assert analysis.dead_taps(8, 3, 1, (18, 18), 18) == [0, 2]
    assert analysis.dead_taps(8, 3, 1, (7, 7), 7) == []
    assert analysis.dead_taps(8, 3, 1, (8, 8), 8) == [0, 2]
    weight = torch.ones(1, 1, 3, requires_grad=True)
    F.conv1d(torch.randn(1, 1, 8), weight, padding=18, dilation=18).square().sum().backward()
    assert weight.grad.flatten().nonzero().flatten().tolist() == [1]


# ------------------------------------------------------------------------------------------------------ equivalences


@pytest.mark.parametrize("conv", [Conv1d, Conv2d, Conv3d])
def test_pointwise_is_linear_and_back(conv: type[nn.Module]) -> None:
    layer = conv(5, 3, 1)
    there = analysis.pointwise_as_linear(layer)
    assert isinstance(there.module, nn.Linear)
    assert there.error < 1e-15
    back = analysis.linear_as_pointwise(there.module, layer.weight.dim() - 2)
    assert back.error < 1e-15
    assert type(back.module) is conv
    assert torch.equal(back.module.weight, layer.weight)
    assert back.module.weight.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize("options", [{"kernel_size": 3}, {"stride": 2}, {"groups": 2}, {"padding": 1}])
def test_what_is_no_linear_layer_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        analysis.pointwise_as_linear(Conv2d(4, 4, **{"kernel_size": 1, **options}))


@pytest.mark.parametrize("shape", [(1, 24), (2, 12), (2, 3, 4), (1, 2, 3, 4)])
def test_fully_connected_is_a_convolution(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(24, 5)
    found = analysis.linear_as_convolution(linear, shape)
    assert found.error < 1e-14
    assert found.module.weight.shape == (5, *shape)
    x = torch.randn(shape)
    assert found.module(x).shape == (5, *[1] * (len(shape) - 1))
    torch.testing.assert_close(found.module(x).flatten(), linear(x.flatten()))
    with pytest.raises(ValueError, match="expected 24 elements"):
        analysis.linear_as_convolution(linear, (5, 5))


@pytest.mark.parametrize(("dilation", "size"), [(2, 5), (4, 9)])
def test_dilated_is_dense_with_holes(dilation: int, size: int) -> None:
    layer = layers.DilatedConv2d(4, 4, 3, dilation)
    found = analysis.dilated_as_dense(layer)
    assert found.error < 1e-14
    assert found.module.kernel_size == (size, size)
    assert found.module.weight[0, 0].count_nonzero() == 9
    x = torch.randn(1, 4, 20, 19)
    torch.testing.assert_close(found.module(x), layer(x), atol=5e-7, rtol=0)


def test_dense_kernel_of_unequal_dilations() -> None:
    dense = analysis.dense_kernel(torch.ones(1, 1, 2, 3), (3, 2))
    assert dense[0, 0].tolist() == [[1, 0, 1, 0, 1], [0] * 5, [0] * 5, [1, 0, 1, 0, 1]]


@pytest.mark.parametrize(
    "layer",
    [
        ConvTranspose1d(4, 6, 3, 2),
        ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
        ConvTranspose2d(4, 6, (2, 3), (1, 3), dilation=2, bias=False),
        ConvTranspose3d(2, 3, 2, 2),
    ],
)
def test_transposed_is_the_gradient(layer: nn.Module) -> None:
    found = analysis.transposed_as_gradient(layer)
    assert found.error < 1e-13
    assert torch.equal(found.module.weight, layer.weight)


def test_separating_an_outer_product_is_exact() -> None:
    layer = Conv2d(1, 1, 3, padding=1)
    layer.weight.data = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0, -1]))[None, None]
    found = analysis.separate(layer)
    assert found.error < 1e-6
    assert [tuple(conv.weight.shape) for conv in found.module] == [(1, 1, 1, 3), (1, 1, 3, 1)]


def test_separating_into_more_components_errs_less() -> None:
    layer = Conv2d(4, 6, 3, stride=2, padding=1, dilation=2)
    errors = [analysis.separate(layer, n).error for n in (1, 4, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-6  # all of the min(4 * 3, 6 * 3) components
    with pytest.raises(ValueError, match="expected groups 1"):
        analysis.separate(Conv2d(4, 4, 3, groups=2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_folding_batchnorm(bias: bool, affine: bool) -> None:
    layer, norm = layers.DepthwiseConv2d(4, 3, multiplier=2, bias=bias), nn.BatchNorm2d(8, affine=affine)
    for t in (norm.running_mean, norm.weight, norm.bias):
        if t is not None:
            nn.init.normal_(t)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    found = analysis.fold_batchnorm(layer, norm)
    assert found.error < 2e-6
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(found.module(x), norm.eval()(layer(x)), atol=1e-5, rtol=1e-5)
    assert (layer.bias is None) == (not bias)


def test_batchnorm_without_statistics_is_refused() -> None:
    for norm in (nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(5)):
        with pytest.raises(ValueError, match="running statistics of 4 channels"):
            analysis.fold_batchnorm(Conv2d(4, 4, 3), norm)


# ------------------------------------------------------------------------------------------- patches and feature maps


def test_unfold_and_a_product_is_a_convolution() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for kernel, shape in ((3, (2, 27, 36)), (5, (2, 75, 16))):
        layer = Conv2d(3, 4, kernel).double()
        patches = nn.Unfold(kernel)(x)
        assert patches.shape == shape
        product = layer.weight.flatten(1) @ patches + layer.bias[:, None]
        torch.testing.assert_close(product.unflatten(2, layer(x).shape[2:]), layer(x))


# ---------------------------------------------------------------- what the central output reads, in few passes


class Counted(nn.Module):
    """Counts what runs through it: items, forward."""

    items = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.items += len(x)
        return x


class Hidden(nn.Module):
    """Reads where no gradient says so: by a dead ReLU, a weight of zero, a whole number, a maximum."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = layers.DilatedConv1d(2, 2, 3, 2), how
        if how == "zero":
            nn.init.zeros_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.how == "dead":
            y = F.relu(y - 1e6)
        if self.how == "detached":
            y = y.detach()
        if self.how == "inference":
            with torch.no_grad():
                y = self.conv(x.detach())
        if self.how == "maximum":
            y = F.max_pool1d(y, 5, 1, 2)
        return x + y


@pytest.mark.parametrize("how", ["linear", "dead", "zero", "detached", "inference", "maximum"])
def test_the_centre_reads_what_poison_says(how: str) -> None:
    """Against the matrix of all outputs and inputs, which asks no gradient."""
    model, sample = nn.Sequential(Hidden(how), Hidden("linear")), torch.randn(1, 2, 30)
    found = analysis.receptive.centre(model, sample)
    assert found.output == (15,)
    assert torch.equal(found.read[0], analysis.dependence(model, sample)[15])


def test_the_centre_on_both_axes_of_an_image() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 2), stride=2, dilation=(2, 1)), nn.ReLU(), nn.ConvTranspose2d(2, 1, 3, 2))
    sample = torch.randn(2, 1, 17, 14)
    found = analysis.receptive.centre(model, sample)
    for axis in (0, 1):
        expected = analysis.dependence(model, sample, axis + 2)[found.output[axis]]
        assert torch.equal(found.read[axis], expected)
        assert torch.equal(analysis.reads(model, sample, axis + 2), found.field(axis))


@pytest.mark.parametrize("zero", [False, True])
def test_a_gradient_and_one_pass_say_what_is_read(zero: bool) -> None:
    """Also where a block starts from a weight of zero, as the last of a residual branch does."""
    Counted.items = 0
    model = nn.Sequential(Counted(), layers.DilatedConv2d(1, 4, 3, 2), nn.ReLU(), layers.DilatedConv2d(4, 4, 3, 2))
    if zero:
        nn.init.zeros_(model[3].weight)
    analysis.receptive_field(model, torch.randn(1, 1, 65, 65))
    assert Counted.items == 2
