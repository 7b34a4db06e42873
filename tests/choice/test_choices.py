"""The measured table: what is near decides, what is far or refuses falls to the order of preference."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convext.choice import gpu_table, registry
from convext.choice.gpu_table import Choice
from convext.commands import info
from convext.problem import ConvProblem

DEPTHWISE = ConvProblem(
    "fprop", 8, 64, 64, 64, (56, 56), (3, 3), (56, 56), (1, 1), (1, 1), (1, 1), torch.bfloat16, False, "cuda", 90
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of tables, and no table of another test remembered."""
    monkeypatch.setattr(gpu_table, "FOLDER", tmp_path)
    gpu_table._table.cache_clear()
    yield tmp_path / "sm_90.json"
    gpu_table._table.cache_clear()


def test_what_a_table_says_of_a_problem() -> None:
    """The text and the numbers that committed tables hold."""
    assert gpu_table.kind(DEPTHWISE) == "fprop depthwise 2-D bfloat16 channels_first"
    single = replace(DEPTHWISE, dtype=torch.float32, precision="tf32", channels_last=True)
    assert gpu_table.kind(single) == "fprop depthwise 2-D float32/tf32 channels_last"
    grouped = replace(DEPTHWISE, n=1, groups=16, k=128, output=(16, 8), kernel=(4, 2), stride=(1, 2), dilation=(4, 1))
    # 128 pixels, 64 / 16 and 128 / 16 channels, 16 groups, 8 taps, stride 2, dilation 4
    assert gpu_table.point(grouped) == (7.0, 2.0, 3.0, 4.0, 3.0, 1.0, 2.0)
    assert gpu_table.point(replace(grouped, n=0))[0] == 0.0


def test_a_measured_problem_takes_its_kernel(table: Path) -> None:
    preferred = registry.choose(DEPTHWISE).name
    assert preferred != "aten.convolution"
    gpu_table.write(table, [Choice.of(DEPTHWISE, "aten.convolution", 1.0)], {"device": "a test"})
    assert registry.choose(DEPTHWISE).name == "aten.convolution"
    assert registry.choose(replace(DEPTHWISE, arch=80)).name == preferred


def test_info_says_whether_this_gpu_was_measured(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert info.measured() == "no GPU here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(registry, "arch", lambda device: 90)
    assert info.measured().startswith(f"never: there is no sm_90.json in {table.parent}")
    gpu_table.write(table, [Choice.of(DEPTHWISE, "aten.convolution", 1.0)], {"device": "a test", "commit": "abc"})
    assert info.measured() == f"{table}: device a test, commit abc"


def test_a_near_problem_takes_it_too_and_a_far_one_does_not(table: Path) -> None:
    gpu_table.write(table, [Choice.of(DEPTHWISE, "aten.convolution", 1.0)], {})
    assert gpu_table.nearest(replace(DEPTHWISE, n=8 * 8)) is not None
    assert gpu_table.nearest(replace(DEPTHWISE, n=8 * 8 + 4)) is None  # 8.5 times
    assert gpu_table.nearest(replace(DEPTHWISE, dilation=(8, 8))) is not None
    assert gpu_table.nearest(replace(DEPTHWISE, dilation=(9, 9))) is None
    assert gpu_table.nearest(replace(DEPTHWISE, channels_last=True)) is None
    assert gpu_table.nearest(replace(DEPTHWISE, face="dgrad")) is None


def test_the_nearest_of_several_decides(table: Path) -> None:
    small, large = (replace(DEPTHWISE, n=n) for n in (8, 64))
    gpu_table.write(table, [Choice.of(small, "small", 2.0), Choice.of(large, "large", 3.0)], {})
    for n, kernel in ((4, "small"), (16, "small"), (32, "large"), (128, "large")):
        found = gpu_table.nearest(replace(DEPTHWISE, n=n))
        assert found is not None
        assert found.kernel == kernel


@pytest.mark.parametrize(
    "axis",
    [{"n": 16}, {"output": (112, 56)}, {"c": 128}, {"k": 128}, {"groups": 32}, {"kernel": (7, 7)}, {"stride": (2, 1)},
     {"dilation": (1, 2)}],
    ids=str,
)  # fmt: skip
def test_a_measurement_is_told_from_its_neighbour_on_every_axis(table: Path, axis: dict[str, object]) -> None:
    base = replace(DEPTHWISE, groups=16)  # of one family with its neighbours
    neighbour = replace(base, **axis)
    gpu_table.write(table, [Choice.of(base, "here", 1.0), Choice.of(neighbour, "there", 1.0)], {})
    found = [gpu_table.nearest(problem) for problem in (base, neighbour)]
    assert [None if choice is None else choice.kernel for choice in found] == ["here", "there"]


def test_a_measured_kernel_that_refuses_or_is_gone_is_passed_over(table: Path) -> None:
    gpu_table.write(table, [Choice.of(DEPTHWISE, "triton.removed", 2.0)], {})
    assert registry.choose(DEPTHWISE).name in {kernel.name for kernel in registry.kernels()}


def test_unmeasured_dense_2d_convolutions_are_cudnns(table: Path) -> None:
    dense = replace(DEPTHWISE, groups=1)
    assert registry.choose(dense).name == "aten.convolution"
    assert registry.choose(replace(dense, face="wgrad")).name == "aten.convolution"


def test_off_cuda_auto_runs_no_kernel_for_gpus() -> None:
    on_a_cpu = replace(DEPTHWISE, device="cpu", arch=0)
    for problem in (on_a_cpu, replace(on_a_cpu, groups=1)):
        assert registry.choose(problem).provider in ("aten", "cpu", "plain")
    dense = replace(on_a_cpu, n=1, groups=1, input=(2, 2), output=(2, 2))  # smaller than any table for CPUs holds
    assert registry.choose(dense).name == "aten.convolution"
