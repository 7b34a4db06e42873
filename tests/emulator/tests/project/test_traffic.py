"""The committed counts of what real layers ask of an H100's memory are of this source; some are counted again."""

from __future__ import annotations

import json
import random
from typing import Any

import commits
import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from gpu_emulator.triton_device import emulated
from traffic import ARCH, RESULTS, row, work

from convext.benchmarks.inspect import prediction

AGAIN, SHORT = 4, 300  # layers, trips of a block's loop: seconds
COMMITTED: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())
pytestmark = pytest.mark.skipif(
    triton.__version__ != prediction.read()["triton"], reason="the counts are of another Triton's code"
)


def test_every_layer_was_counted_as_it_would_run_now() -> None:
    assert {name: prints for name, _, prints in work()} == {name: row["launches"] for name, row in COMMITTED.items()}


def test_some_layers_counted_again() -> None:
    """Others for each commit. The same blocks run, on the same seed."""
    short = {name: found for name, found, _ in work() if max(launch.trips for launch in found) <= SHORT}
    chosen = random.Random(commits.number()).sample(sorted(short), AGAIN)
    with emulated(ARCH):
        for name in chosen:
            expected = {key: value for key, value in COMMITTED[name].items() if key != "launches"}
            assert row(short[name]) == expected, name
