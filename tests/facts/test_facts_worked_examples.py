"""Worked examples on rows of [1, -2, 3, -4].

All rows and channels of the input are alike, so an output depends on the weight only through its column sums: one
number a kernel column. Where an example prints outputs and not weights, column sums and bias that explain them are
solved for, spread unevenly over rows and channels, and the layer has to give the outputs back.
"""

import pytest
import torch
from torch import Tensor

import convext

pytestmark = pytest.mark.usefixtures("backend")

ROW = [1.0, -2.0, 3.0, -4.0]


def spread(column_sums: Tensor | list[float], rows: int) -> Tensor:
    """[rows, columns], uneven, with the given column sums."""
    sums = torch.as_tensor(column_sums, dtype=torch.float64)
    part = torch.randn(rows, len(sums), dtype=torch.float64)
    part[-1] = sums - part[:-1].sum(0)
    return part


def explain(outputs: list[float], columns: int, stride: int = 1, dilation: int = 1) -> tuple[Tensor, float]:
    """The smallest column sums and bias that give `outputs` on ROW."""
    starts = range(0, stride * len(outputs), stride)
    windows = [[ROW[s + t * dilation] for t in range(columns)] + [1.0] for s in starts]
    system = torch.tensor(windows, dtype=torch.float64)
    solution = torch.linalg.lstsq(system, torch.tensor(outputs, dtype=torch.float64), driver="gelsd").solution
    return solution[:-1], solution[-1].item()


def test_unbatched_sequence(layer, tensor, assert_values):
    slopes = torch.tensor([0.5547, -1.21786, 0.80243], dtype=torch.float64)
    weight = spread(slopes, 3).T.unsqueeze(2)  # [3 outputs, 3 channels, 1]
    y = layer(convext.Conv1d, weight, [-0.1348, -0.47803, 0.28029])(tensor([ROW] * 3))
    expected = [
        [0.4199, -1.2442, 1.5293, -2.3536],
        [-1.6959, 1.9577, -4.1316, 4.3934],
        [1.0827, -1.3246, 2.6876, -2.9294],
    ]
    assert_values(y, expected, 2e-4)


def test_one_tap_reads_one_position(layer, tensor, assert_values):
    others = spread([0.36273 - 0.4141], 2).flatten()
    conv = layer(
        convext.Conv1d, torch.stack([others[0], torch.tensor(0.4141).double(), others[1]]).view(1, 3, 1), 0.14612
    )
    x = tensor([ROW] * 3)
    assert_values(conv(x), [[0.5089, -0.5794, 1.2343, -1.3048]], 2e-4)
    x[1, 0] = 5
    assert_values(conv(x), [[2.1653, -0.5794, 1.2343, -1.3048]], 2e-4)


def test_two_taps(layer, tensor, assert_values):
    middle = torch.tensor([0.2762, 0.01269], dtype=torch.float64)
    others = spread(torch.tensor([0.24667, 0.27692], dtype=torch.float64) - middle, 2)
    conv = layer(convext.Conv1d, torch.stack([others[0], middle, others[1]]).unsqueeze(0), -0.35692)
    x = tensor([ROW] * 3)
    assert_values(conv(x), [[-0.6641, -0.0195, -0.7246]], 2e-4)
    x[1, 0] = 5
    assert_values(conv(x), [[0.4407, -0.0195, -0.7246]], 2e-4)
    x[1, 0], x[1, 1] = 1, 2.5
    assert_values(conv(x), [[-0.6070, 1.2234, -0.7246]], 2e-4)


def test_two_taps_of_stride_two(layer, tensor, assert_values):
    sums, bias = explain([0.4899, 0.6001], columns=2, stride=2)
    assert (sums[0] - sums[1]).item() == pytest.approx(0.0551, abs=1e-4)
    middle = torch.stack([torch.zeros((), dtype=torch.float64), torch.tensor(-0.12404, dtype=torch.float64)])
    others = spread(sums - middle, 2)
    conv = layer(convext.Conv1d, torch.stack([others[0], middle, others[1]]).unsqueeze(0), bias, stride=2)
    x = tensor([ROW] * 3)
    assert_values(conv(x), [[0.4899, 0.6001]], 2e-4)
    x[1, 1] = 2.5
    assert_values(conv(x), [[-0.0683, 0.6001]], 2e-4)


def image(tensor) -> Tensor:
    return tensor([[ROW] * 3])  # [1, 3, 4], unbatched


def test_unbatched_image(layer, tensor, assert_values):
    conv = layer(convext.Conv2d, spread([0.2358, 0.1480], 2).view(1, 1, 2, 2), -0.1118)
    assert_values(conv(image(tensor)), [[[-0.1720, -0.1394, 0.0036]] * 2], 2e-4)


def test_two_output_channels(layer, tensor, assert_values):
    rows = [[0.9437, -0.4663, 1.6787], [-0.1756, 0.4394, -0.5947]]
    fits = [explain(row, columns=2) for row in rows]
    weight = torch.stack([spread(sums, 2) for sums, _ in fits]).unsqueeze(1)
    conv = layer(convext.Conv2d, weight, [bias for _, bias in fits])
    assert_values(conv(image(tensor)), [[row] * 2 for row in rows], 2e-4)


@pytest.mark.parametrize(
    ("kernel", "outputs", "stride", "dilation"),
    [
        ((2, 3), [[1.5348, -1.9661]] * 2, 1, 1),
        ((3, 3), [[-1.2753, 2.1745]], 1, 1),
        ((3, 3), [[1.2265, -1.7543]], 1, 1),
        ((3, 3), [[0.2969]], 2, 1),
        ((2, 2), [[0.0578, -0.6624, -0.0847]] * 2, 1, 1),
        ((2, 2), [[-1.3338, 0.9549]], 1, 2),
    ],
    ids=["2x3", "3x3", "3x3 unpadded", "3x3 stride 2", "2x2 dilation 1", "2x2 dilation 2"],
)
def test_kernels_on_an_image(kernel, outputs, stride, dilation, layer, tensor, assert_values):
    sums, bias = explain(outputs[0], kernel[1], stride, dilation)
    weight = spread(sums, kernel[0])[None, None]
    conv = layer(convext.Conv2d, weight, bias, stride=stride, dilation=dilation)
    assert_values(conv(image(tensor)), [outputs], 2e-4)


def test_dilation_defaults_to_one(layer, tensor, assert_values):
    conv = layer(convext.Conv2d, spread([-0.53822, -0.46698], 2)[None, None], -0.33792)
    assert conv.dilation == (1, 1)
    assert_values(conv(image(tensor)), [[[0.0578, -0.6624, -0.0847]] * 2], 2e-4)


def test_a_window_that_would_leave_the_input_is_dropped(layer, tensor, assert_values):
    sums, bias = explain([0.2969], columns=3)
    conv = layer(convext.Conv2d, spread(sums, 3)[None, None], bias, stride=2)
    x = image(tensor)
    assert_values(conv(x), [[[0.2969]]])
    assert_values(conv(x[..., :3]), [[[0.2969]]])


def test_padding_one(layer, tensor, assert_values):
    w = [[-0.09523, -0.10567, -0.00389], [-0.06541, -0.09707, -0.13476], [-0.28927, 0.31092, -0.09741]]
    conv = layer(convext.Conv2d, [[w]], 0.12785, padding=1)
    expected = [
        [0.8060, -1.3511, 2.4074, -1.7916],
        [0.7081, -1.2467, 2.2964, -1.6546],
        [0.2024, -0.0433, 0.3955, 0.4569],
    ]
    assert_values(conv(image(tensor)), [expected], 3e-4)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_rows_as_channels_are_a_kernel_over_all_rows(k, device):
    rows, columns = 3, 4
    one = convext.Conv1d(rows, 1, k, dtype=torch.float64, device=device)
    two = torch.nn.Conv2d(1, 1, (rows, k), dtype=torch.float64, device=device)
    two.load_state_dict({"weight": one.weight.unsqueeze(1), "bias": one.bias})
    x = torch.randn(rows, columns, dtype=torch.float64, device=device)
    torch.testing.assert_close(one(x), two(x.unsqueeze(0)).squeeze(1), rtol=0, atol=1e-14)


def test_wrong_number_of_channels(device):
    conv = convext.Conv2d(3, 1, 2, device=device)
    with pytest.raises(RuntimeError) as caught:
        conv(torch.randn(1, 1, 3, 4, device=device))
    assert str(caught.value) == (
        "Given groups=1, weight of size [1, 3, 2, 2], expected input[1, 1, 3, 4] to have 3 channels, "
        "but got 1 channels instead"
    )


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_have_names(mode, device):
    conv = convext.Conv2d(1, 1, 3, padding=1, padding_mode=mode, device=device)
    assert conv(torch.randn(1, 4, 4, device=device)).shape == (1, 4, 4)
