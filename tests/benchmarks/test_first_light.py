"""The script of the first run on a GPU, on whatever is here: its steps are apart, and their results are on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convext.benchmarks.reporting.results import Results

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")


def first_light(out: Path, *steps: str, **environment: str) -> dict[str, str]:
    """Runs steps of the script; what each came to, by name."""
    subprocess.run(
        ["bash", ROOT / "benchmarks" / "first_light.sh", *steps],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(out), **environment},
        check=False,
    )
    lines = (out / "steps.txt").read_text().splitlines()
    return {name: rest.partition(" after")[0] for name, _, rest in (line.partition(": ") for line in lines)}


@pytest.mark.long
def test_a_kernel_that_ends_its_process_costs_the_script_its_own_rows(tmp_path: Path) -> None:
    planted = {"CONVEXT_KERNELS": "planted", "PLANTED": "raises exits right", "PYTHONPATH": str(Path(__file__).parent)}
    steps = first_light(tmp_path, "probe", "bench", "tune", TIME="200", MINUTES="0.01", **planted)
    assert steps == {"probe": "exit 0", "bench": "exit 1", "tune": "exit 0"}
    log = (tmp_path / "log.txt").read_text()
    assert "C compiler: " in log
    (path,) = tmp_path.glob("*.jsonl")
    row, *_ = Results.read(path).rows
    assert {"torch.eager/nc", "aten.convolution/nc", "planted.right/nc"} <= set(row.times)
    assert row.failures["planted.raises/nc"] == "RuntimeError: no such tile"
    assert row.failures["planted.exits/nc"] == "its process exited with status 7"
    assert (tmp_path / "choices.json").exists()


def test_a_step_whose_time_is_over_is_not_begun(tmp_path: Path) -> None:
    assert first_light(tmp_path, "probe", "check", TIME="0") == {
        "probe": "exit none: the time was over",
        "check": "exit none: the time was over",
    }


def test_copies_are_compared_on_any_device(device):
    """The interpreter is no measure of speed: what is looked at are the rows."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from convext.benchmarks.first_light.copies import compare

    rows = dict(compare((2, 5, 6, 7), True, device, 0.01))
    assert [line.partition(": ours ")[0] for line in rows] == ["copied [2, 5, 6, 7] NHWC", "summed [2, 5, 6, 7] NHWC"]
    assert all(ratio > 0 for ratio in rows.values())


def test_epilogues_are_compared_on_any_device(device):
    """The interpreter is no measure of speed: what is looked at are the row, and that both are right."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from convext.benchmarks.first_light.epilogues import Layer, compare

    line, ratio, errors = compare(Layer("triton.stencil", 1, 4, 6, 3, 4), True, device, 0.01)
    assert line.startswith("triton.stencil [1, 4, 6, 6] 3x3 NHWC: bare ")
    assert ratio > 0
    assert 0 < errors <= 2 or device == "cpu"  # Triton's interpreter cuts bfloat16 off, where a GPU rounds


def test_one_launch_is_compared_with_two_on_any_device(device):
    pytest.importorskip("triton", reason="Triton is not installed")
    from convext.benchmarks.first_light.separable import Layer, compare

    line, error = compare(Layer(1, 8, 6, 5), True, (device, 0, "ieee"), 0.01)
    assert line.startswith("[1, 8, 5, 5] 3x3 stride 1 to 6 NHWC: one ")
    assert "x, predicted " in line
    assert 0 < error <= 2 or device == "cpu"  # as above


@pytest.mark.parametrize("groups", [1, 4])
def test_branches_are_compared_with_their_concatenation_on_any_device(groups, device):
    pytest.importorskip("triton", reason="Triton is not installed")
    from convext.benchmarks.first_light.branches import Block, compare, predicted

    block = Block(1, 4, 4, 6, groups, (1, 2))
    line, error = compare(block, (device, 0, "ieee"), 0.01)
    assert line.startswith(f"[1, 4, 6, 6] to 2 x 4, {groups} groups, dilations [1, 2]: one call ")
    assert predicted(block) == (4 + 3 * 8) / (4 + 8)
    assert line.endswith("x, predicted 2.33x")
    assert error > 0 or device == "cpu"  # of products of bfloat16 Triton's interpreter makes none
