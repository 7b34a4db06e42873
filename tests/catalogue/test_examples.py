"""The examples run as their users run them, and do what they say: each prints its result, and draws its pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path) -> str:
    pytest.importorskip("matplotlib", reason="the examples draw with matplotlib, which also ships the photograph")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(folder)], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return float(found[1])


def test_segmentation_head(tmp_path: Path) -> None:
    said = run("segmentation_head.py", tmp_path)
    assert "dilations 2, 4, 8 read 15/29" in said
    assert "receptive field (17, 17)" in said
    assert number(r"in ([\d.]+)% after", said) > 85 > number(r"in ([\d.]+)% of unseen", said)
    assert {path.name for path in tmp_path.iterdir()} == {"segmentation.png", "feature_maps.png"}


def test_wavenet(tmp_path: Path) -> None:
    pytest.importorskip("chime", reason="the sound is chime's")
    said = run("wavenet.py", tmp_path)
    assert number(r"([\d.]+) bits a sample before", said) > 5.5
    assert number(r"([\d.]+) after", said) < 3.5
    assert {path.name for path in tmp_path.iterdir()} == {"wavenet.png", "wavenet.wav"}
    assert (tmp_path / "wavenet.wav").stat().st_size == 44 + 2 * 1000


def test_separable_network(tmp_path: Path) -> None:
    said = run("separable_network.py", tmp_path)
    assert "6 layers converted, 0 left alone" in said
    assert number(r"denoised ([\d.]+) dB", said) > 2 + number(r"noise: ([\d.]+) dB", said)
    assert said.count("a norm folded away") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["denoised.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="what limits a process's memory is Linux's")
def test_volume(tmp_path: Path) -> None:
    said = run("volume.py", tmp_path)
    assert "one process: " in said
    assert "can't allocate memory" in said
    assert "one process trained" not in said
    assert number(r"([\d.]+) in step 3", said) < number(r"4 processes: mean squared error ([\d.]+)", said)
    assert "halos: 6,291,456 bytes in all, least possible 6,291,456" in said
