"""What oneDNN is expected to compute a convolution with, against what it says that it did."""

import platform
from itertools import product

import pytest
import torch

from convext.choice.onednn import kernel_of
from convext.commands import check
from convext.problem import ConvProblem, output_size
from convext.providers import aten
from convext.providers.cpu import library

# What a kernel calls itself, the first that is found: kernels of deconvolutions name the convolution that they run.
NAMES = {"gemm": "gemm", "brdgmm": "depthwise brgemm", "jit_dw": "depthwise", "brg": "brgemm", "jit": "direct"}

# face, channels of a group, groups, input, taps, stride, padding, dilation, dtype, channels last
CALLS = {
    "3x3": ("fprop", 1, 24, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "3x3, channels last": ("fprop", 1, 24, (20, 20), 3, 1, 1, 1, torch.float32, True),
    "wide pads": ("fprop", 1, 24, (40, 40), 19, 1, 9, 1, torch.float32, False),
    "wide pads, last whole tile reads 6": ("fprop", 1, 24, (42, 42), 3, 1, 6, 6, torch.float32, False),
    "wide pads, channels last": ("fprop", 1, 24, (40, 40), 5, 1, 16, 8, torch.float32, True),
    "3d": ("fprop", 1, 24, (8, 9, 10), 3, 1, 1, 1, torch.float32, False),
    "3d dilated": ("fprop", 1, 24, (8, 9, 10), 3, 1, 2, 2, torch.float32, False),
    "input gradient": ("dgrad", 1, 24, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "input gradient, dilated": ("dgrad", 1, 24, (20, 20), 3, 1, 2, 2, torch.float32, False),
    "input gradient, dilated, channels last": ("dgrad", 1, 24, (20, 20), 3, 1, 2, 2, torch.float32, True),
    "weight gradient": ("wgrad", 1, 24, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "weight gradient, 5x5": ("wgrad", 1, 24, (20, 20), 5, 1, 2, 1, torch.float32, False),
    "weight gradient, 5x5, channels last": ("wgrad", 1, 24, (20, 20), 5, 1, 2, 1, torch.float32, True),
    "groups of 4": ("fprop", 4, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 6": ("fprop", 6, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 6, channels last": ("fprop", 6, 6, (20, 20), 3, 1, 1, 1, torch.float32, True),
    "groups of 6, input gradient": ("dgrad", 6, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 8, weight gradient": ("wgrad", 8, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 4, weight gradient": ("wgrad", 4, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
}  # fmt: skip
AVX2 = {
    "pads of 5": ("fprop", 1, 24, (40, 40), 11, 1, 5, 1, torch.float32, False),
    "pads of 5, channels last": ("fprop", 1, 24, (40, 40), 3, 1, 5, 5, torch.float32, True),
    "3d dilated, channels last": ("fprop", 1, 24, (8, 9, 10), 3, 1, 2, 2, torch.float32, True),
    "input gradient, far beyond, channels last": ("dgrad", 1, 24, (40, 40), 3, 1, 0, 7, torch.float32, True),
    "weight gradient, dilated, channels last": ("wgrad", 1, 24, (20, 20), 5, 1, 4, 2, torch.float32, True),
    "weight gradient, 3d, channels last": ("wgrad", 1, 24, (8, 9, 10), 3, 1, 1, 1, torch.float32, True),
    "groups of 8": ("fprop", 8, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 8, pads of 4": ("fprop", 8, 6, (20, 20), 9, 1, 4, 1, torch.float32, False),
    "groups of 8, input gradient": ("dgrad", 8, 6, (20, 20), 3, 1, 1, 1, torch.float32, False),
    "groups of 8, input gradient, far beyond": ("dgrad", 8, 6, (40,), 9, 1, 0, 1, torch.float32, False),
    "groups of 8, input gradient, strided row": ("dgrad", 8, 6, (41,), 3, 2, 1, 1, torch.float32, False),
    "groups of 8, input gradient, strided": ("dgrad", 8, 6, (41, 41), 3, 2, 1, 1, torch.float32, False),
    "groups of 6, input gradient, channels last": ("dgrad", 6, 6, (20, 20), 3, 1, 1, 1, torch.float32, True),
}  # fmt: skip
AVX512 = {
    "pads wider than a row, channels last": ("fprop", 1, 24, (9, 14), 4, 2, 9, 6, torch.float32, True),
    "groups of 4, pads wider than a row": ("fprop", 4, 6, (21, 21), 7, 2, 12, 4, torch.float32, False),
    "groups of 6, pads wider than a row, channels last": ("fprop", 6, 6, (21, 21), 7, 2, 12, 4, torch.float32, True),
    "input gradient, 3d, strided, bfloat16": ("dgrad", 1, 24, (8, 9, 10), 3, 2, 1, 1, torch.bfloat16, False),
    "input gradient, far beyond, channels last": ("dgrad", 1, 24, (39, 39), 5, 1, 24, 12, torch.float32, True),
    "input gradient, far beyond, bfloat16": ("dgrad", 1, 24, (59, 59), 5, 1, 0, 6, torch.bfloat16, True),
    "groups of 6, input gradient, strided, bfloat16": ("dgrad", 6, 6, (44, 44), 6, 2, 0, 1, torch.bfloat16, False),
    "groups of 4, input gradient, row, channels last": ("dgrad", 4, 6, (132,), 3, 1, 1, 1, torch.float32, True),
    "groups of 4, input gradient, far beyond, bfloat16": ("dgrad", 4, 6, (400,), 6, 1, 0, 6, torch.bfloat16, False),
    "weight gradient, pads leave a pixel": ("wgrad", 1, 24, (31, 31), 3, 1, 12, 12, torch.float32, True),
    "weight gradient, pads fill the row": ("wgrad", 1, 24, (10, 10), 3, 1, 6, 6, torch.float32, True),
    "groups of 6, weight gradient, pads fill the row": ("wgrad", 6, 6, (19, 19), 3, 1, 12, 12, torch.float32, True),
    "groups of 4, weight gradient, 17x17, channels last": ("wgrad", 4, 6, (30, 30), 17, 1, 8, 1, torch.float32, True),
}  # fmt: skip


@pytest.mark.skipif(
    library.machine() not in ("amd-avx2", "amd-avx512"), reason="read off on AMD's; oneDNN may have others elsewhere"
)
@pytest.mark.parametrize("name", CALLS)
def test_names_what_ran(name, capfd):
    assert_names_what_ran(CALLS[name], capfd)


@pytest.mark.skipif(library.machine() != "amd-avx2", reason="what AVX2 alone computes so was read off there")
@pytest.mark.parametrize("name", AVX2)
def test_names_what_ran_in_avx2(name, capfd):
    assert_names_what_ran(AVX2[name], capfd)


@pytest.mark.skipif(library.machine() != "amd-avx512", reason="what AVX-512 alone computes so was read off there")
@pytest.mark.parametrize("name", AVX512)
def test_names_what_ran_in_avx512(name, capfd):
    assert_names_what_ran(AVX512[name], capfd)


def assert_names_what_ran(call, capfd):
    face, channels, groups, input, taps, stride, pad, dilation, dtype, channels_last = call
    kernel, strides, pads, dilations = ((value,) * len(input) for value in (taps, stride, pad, dilation))
    p = ConvProblem(
        face, 2, channels * groups, channels * groups, groups, input, kernel,
        output_size(input, kernel, strides, pads, pads, dilations), strides, pads, dilations, dtype, channels_last,
    )  # fmt: skip
    a, b = check.operands(p)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        aten.run(p, a, b, None)
    ran = [line.split(",") for line in capfd.readouterr().out.splitlines() if "convolution," in line and "exec" in line]
    assert ran, "no convolution of oneDNN's ran"
    kind, name_of_kernel = ran[-1][5:7]
    assert "convolution" in kind
    assert kernel_of(p) == next(NAMES[part] for part in NAMES if part in name_of_kernel)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ATen asks Arm's library there")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tells_which_layers_of_one_group_are_not_onednns(rank):
    """As ATen selects, on both sides of the size at which it changes."""
    told = set()
    for side, taps, dilation, channels, images in product((5, 8, 18, 40, 120), (2, 3, 5), (1, 2), (8, 64, 200), (1, 2)):
        if side**rank * channels > 2**22:
            continue
        input, kernel, ones = (side,) * rank, (taps,) * rank, (1,) * rank
        pads, dilations = ((value,) * rank for value in (dilation * (taps - 1) // 2, dilation))
        p = ConvProblem(
            "fprop", images, channels, channels, 1, input, kernel,
            output_size(input, kernel, ones, pads, pads, dilations), ones, pads, dilations, torch.float32, False,
        )  # fmt: skip
        x, w = torch.empty(images, channels, *input), torch.empty(channels, channels, *kernel)
        selected = torch._C._select_conv_backend(x, w, None, ones, pads, dilations, False, (0,) * rank, 1, None)
        own = selected != torch._C._ConvBackend.Mkldnn
        assert (kernel_of(p) == "none") == own, (p, selected)
        told.add(own)
    assert told == {True, False}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ATen asks Arm's library there")
@pytest.mark.parametrize(("c", "k", "by_onednn"), [(24, 8, True), (8, 24, True), (8, 9, False)])
def test_an_input_gradient_of_one_image_is_onednns_by_x_or_by_y(c, k, by_onednn, capfd):
    """24 channels of 32x32 rows are more than torch's own loops take, 9 are not."""
    threes, ones = (3, 3, 3), (1, 1, 1)
    p = ConvProblem("dgrad", 1, c, k, 1, (32, 32, 4), threes, (32, 32, 4), ones, ones, ones, torch.float32, False)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        aten.run(p, *check.operands(p), None)
    ran = [line for line in capfd.readouterr().out.splitlines() if "convolution," in line and "exec" in line]
    assert bool(ran) == by_onednn
    assert (kernel_of(p) != "none") == by_onednn
