"""Passes around the CUDA kernels, executed: copies between memory formats, and the sum that is a bias's gradient."""

from functools import partial
from pathlib import Path

import host_build
import pytest
import torch

from convext.problem import ConvProblem
from convext.problem.layout import dense
from convext.providers.cuda import bias, igemm
from convext.providers.cuda.launches import NOTHING, Launch, ending
from convext.replay.tape import record

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Images [n, c, *space]: pixels of whole vectors and odd ones, more than a tile has of either, several in a tile.
IMAGES = [(1, 72, 5, 13), (3, 8, 7, 7), (2, 136, 8, 8), (1, 16, 3, 2, 3), (33, 8, 2), (1, 64, 130)]


def pointwise(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x, through a copy to channels last, a product, and a copy back."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    one, zero = (1,) * (x.dim() - 2), (0,) * (x.dim() - 2)
    Launch("igemm", ("fprop",), (x, w, None, None, result), (one, zero, one, 1, *ending(NOTHING), "tf32"))()
    return result


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_copies_are_exact(host_library: Path, shape: tuple[int, ...], dtype: torch.dtype, offset: int) -> None:
    """By the identity, of small integers: every element arrives where it was. Also where x begins between vectors."""
    host_build.set_schedule(host_library, "random", seed=len(shape))
    x = torch.randint(-8, 9, (torch.Size(shape).numel() + offset,)).to(dtype)[offset:].view(shape)
    identity = torch.eye(shape[1], dtype=dtype).view(shape[1], shape[1], *[1] * (len(shape) - 2))
    assert torch.equal(pointwise(x, identity), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_are_copied_several_matrices_in_a_tile(host_library: Path, dtype: torch.dtype) -> None:
    """Of small integers, so that every sum is exact: nine taps of 24 filters with 16 channels."""
    x, w = (torch.randint(-2, 3, shape).to(dtype) for shape in ((1, 16, 4, 5), (24, 16, 3, 3)))
    result = torch.empty(1, 24, 4, 5, dtype=dtype)
    Launch("igemm", ("fprop",), (x, w, None, None, result), ((1, 1), (1, 1), (1, 1), 1, *ending(NOTHING), "tf32"))()
    assert torch.equal(result, torch.nn.functional.conv2d(x.double(), w.double(), padding=1).to(dtype))


def test_copies_are_part_of_one_call(host_library: Path) -> None:
    """What is written down of a call on contiguous tensors is what it returns, and one launch."""
    shapes, one = ((2, 8, 5, 5), (8, 8, 3, 3)), (1, 1)
    problem = ConvProblem.of("fprop", *shapes, (5, 5), one, one, one, 1, torch.bfloat16, False, "cpu", 0)
    operands = [torch.randn(shape).bfloat16() for shape in shapes]
    result, replay = record(partial(igemm.run, problem), *operands, None)
    assert len(replay._steps) == 2
    assert torch.equal(replay(*operands, None), result)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*IMAGES, (2, 3, 9), (4, 5, 1, 1), (2, 1, 40, 64), (6, 40, 32, 32)], ids=str)
def test_a_biass_gradient(host_library: Path, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> None:
    """Against float64, within a rounding of the result and float32's of its terms; the same bits each time."""
    host_build.set_schedule(host_library, "priority", seed=len(shape))
    y = dense(torch.randn(shape).to(dtype), last)
    over = (0, *range(2, y.dim()))
    found = bias.run(None, y)
    error = (found.double() - y.double().sum(over)).abs()
    eps = torch.finfo(dtype).eps / 2 if dtype is not torch.float32 else 0
    assert (error <= eps * y.double().sum(over).abs() + 2**-20 * y.double().abs().sum(over)).all()
    assert torch.equal(bias.run(None, y), found)


def test_a_biass_gradient_of_other_strides_is_torchs(host_library: Path) -> None:
    y = torch.randn(2, 3, 6, 8)[..., ::2]
    torch.testing.assert_close(bias.run(None, y), y.sum((0, 2, 3)))


def test_what_a_sum_refuses(host_library: Path) -> None:
    def called(y: torch.Tensor, result: torch.Tensor) -> None:
        Launch("bias", (), (y, result), ())()

    with pytest.raises(RuntimeError, match="element for each of its 3 channels"):
        called(torch.randn(2, 3, 4), torch.empty(4))
    with pytest.raises(RuntimeError, match="result of y's dtype"):
        called(torch.randn(2, 3, 4), torch.empty(3).half())
    with pytest.raises(RuntimeError, match="pixels of y at even distances"):
        called(torch.randn(2, 3, 4, 6)[..., :4], torch.empty(3))
    with pytest.raises(RuntimeError, match="dense result"):
        called(torch.randn(2, 3, 4), torch.empty(6)[::2])
