"""The choice table that a benchmark's rows give."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.reporting.results import Row
from convext.benchmarks.tuning.gpu import choices_of
from convext.choice import registry

OURS = registry.kernels()[0].name
LAYER = next(layer for layer in model_layers() if layer.family == "depthwise")


def row(times: dict[str, float], work: str = "fprop", cut: str = "") -> Row:
    return Row(
        layer=LAYER.id, name=LAYER.name, family=LAYER.family, work=work, dtype="bfloat16", transposed=False, count=1,
        layout="nc", cut=cut, checked="all", ideal=1.0, bound="memory", baseline="torch.eager/cl",
        times={name: [time, time, time] for name, time in times.items()},
    )  # fmt: skip


def test_the_fastest_of_each_memory_format() -> None:
    times = {
        "torch.eager/nc": 90.0, "torch.eager/cl": 60.0,
        "aten.convolution/nc": 90.0, f"{OURS}/nc": 30.0,
        "aten.convolution/cl": 60.0, f"{OURS}/cl": 120.0,
    }  # fmt: skip
    first, last = choices_of([row(times)], 90, "tf32")
    assert (first.kernel, first.ratio) == (OURS, 2.0)
    assert (last.kernel, last.ratio) == ("aten.convolution", 1.0)
    assert first.kind == "fprop depthwise 2-D bfloat16 channels_first"
    assert last.kind == "fprop depthwise 2-D bfloat16 channels_last"


def test_steps_cut_layers_and_rows_without_torch_choose_nothing() -> None:
    times = {"torch.eager/cl": 60.0, "aten.convolution/nc": 60.0}
    without = row(times)
    without.baseline = ""
    assert choices_of([row(times, work="step"), row(times, cut="n 64>2"), without], 90, "tf32") == []


def test_rows_of_a_sweep_choose_too() -> None:
    times = {"torch.eager/cl": 90.0, f"{OURS}/nc": 30.0}
    (choice,) = choices_of([replace(row(times), layer="sweep-depthwise-64-7")], 90, "tf32")
    assert (choice.kernel, choice.ratio, choice.kind) == (OURS, 3.0, "fprop depthwise 2-D bfloat16 channels_first")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "convext", "tune"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "CUDA device" in done.stderr
