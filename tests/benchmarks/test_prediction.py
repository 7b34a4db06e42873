"""Predictions for an H100 come from the counted instructions of the very tile, and from nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from convext.benchmarks import prediction, report
from convext.benchmarks.inspect import RESULTS
from convext.benchmarks.layers import model_layers
from convext.benchmarks.prediction import INSTRUCTIONS, predict
from convext.roofline import H100, ideal_seconds

pytest.importorskip("triton", reason="Triton is not installed: ATEN is chosen everywhere, and has no figures")
LAYERS = {layer.id: layer for layer in model_layers()}


@pytest.fixture(autouse=True)
def _read_anew() -> None:
    prediction._compiled.cache_clear()


def test_a_specimens_own_problem_has_its_figures() -> None:
    """31x31 on 64x64 maps, 32 images of 64 channels, is compiled: the committed figure is that layer's."""
    figures = json.loads(RESULTS.read_text())["kernels"]["sm_90"]["stencil.fprop 31x31 bfloat16 NCHW"]
    layer = replace(LAYERS["481"], input=(32, 64, 64, 64), weight=(64, 1, 31, 31), groups=64)
    found = predict(layer)
    assert found.per_output == pytest.approx(figures["per_output"], abs=0.01)
    assert found.registers == figures["registers"]
    outputs = 32 * 64 * 64 * 64
    assert found.seconds == pytest.approx(outputs * figures["per_output"] / INSTRUCTIONS, rel=1e-4)
    assert found.limit == "instructions"


def test_memory_limits_where_instructions_are_few() -> None:
    found = predict(LAYERS["7"])  # 3x3 in MobileNetV2
    assert found.per_output is not None
    assert found.per_output < 39  # what the bandwidth leaves time for in bfloat16
    assert found.seconds == found.ideal
    assert found.limit == "memory"


@pytest.mark.parametrize("family", ["pointwise", "dense", "grouped"])
def test_products_on_matrix_units_have_their_ideal_only(family: str) -> None:
    layer = next(layer for layer in LAYERS.values() if layer.family == family)
    found = predict(layer)
    problem = layer.problem("fprop", torch.bfloat16, layer.layout == "cl", "cuda", 90)
    assert found.ideal == ideal_seconds(problem, H100)
    assert (found.per_output, found.registers, found.seconds) == (None, None, None)


def test_a_tile_that_was_not_compiled_has_its_ideal_only(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(prediction, "RESULTS", tmp_path / "none.json")
    assert predict(LAYERS["7"]).seconds is None


def test_the_report_says_that_it_is_a_prediction() -> None:
    heading, note, body = report._predictions()
    assert "prediction, not measured" in heading
    assert "Prediction, not measured" in note
    assert body.count("<tr>") == 1 + len(LAYERS)
    assert '<td class="same">instructions' in body
