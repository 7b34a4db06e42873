"""Predictions for an H100 come from the machine code of the launches that would run, and from nothing else."""

import json
import math

import pytest

from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.inspect import prediction
from convext.benchmarks.inspect.prediction import INSTRUCTIONS, kernel_of, launches_of, predict, problem_of, stale
from convext.benchmarks.reporting import report
from convext.choice.registry import choose
from convext.problem import FACES, Face
from convext.problem.roofline import H100, ideal_seconds

pytest.importorskip("triton", reason="Triton is not installed: ATen is chosen everywhere, and has no figures")
LAYERS = {layer.id: layer for layer in model_layers()}
NO_TRAFFIC = {"7 fprop": {"l2": 0, "written": 0, "wavefronts": 0}}
FIGURES = {"threads": 128, "registers": 40, "spills": 0, "instructions": 1000, "loop": 100}


def table_of(*launches: tuple[int, float], copied: int = 0) -> prediction.Table:
    """A table where MobileNetV2's 3x3 has these launches, (programs, trips) each."""
    runs = [["code", programs, trips] for programs, trips in launches]
    return {
        "triton": "",
        "launches": {"code": FIGURES},
        "layers": {"7 fprop": {"kernel": "triton.stencil", "launches": runs, "copied": copied}},
    }


def test_instructions_are_those_of_all_launches_and_trips() -> None:
    found = predict(LAYERS["7"], "fprop", table_of((1_000_000, 11), (500_000, 1)), NO_TRAFFIC)
    issued = 128 * (1_000_000 * (1000 + 100 * 10) + 500_000 * 1000)
    assert found.instructions == pytest.approx(issued / INSTRUCTIONS)
    assert found.per_output == pytest.approx(issued / math.prod(problem_of(LAYERS["7"], "fprop").open_shape))
    assert found.seconds == found.instructions > found.ideal
    assert found.limit == "instructions"


def test_memory_limits_where_instructions_are_few() -> None:
    found = predict(LAYERS["7"], "fprop", table_of((1, 1)), NO_TRAFFIC)
    assert found.seconds == found.ideal == ideal_seconds(problem_of(LAYERS["7"], "fprop"), H100)
    assert found.limit == "memory"


@pytest.mark.parametrize(
    ("traffic", "limit"),
    [
        ({"l2": 4_500_000_000, "written": 4_500_000_000, "wavefronts": 1}, "L2"),
        ({"l2": 1, "written": 1, "wavefronts": 231_000_000}, "shared memory"),
    ],
)
def test_traffic_within_the_chip_limits_too(traffic: dict[str, int], limit: str) -> None:
    found = predict(LAYERS["7"], "fprop", table_of((1, 1)), {"7 fprop": traffic})
    assert (found.seconds, found.limit) == (pytest.approx(1e-3), limit)


def test_copies_come_on_top() -> None:
    found = predict(LAYERS["7"], "fprop", table_of((1, 1), copied=3_000_000_000), NO_TRAFFIC)
    assert found.seconds == pytest.approx(found.ideal + 1e-3)
    assert found.limit == "copies"


def test_a_layer_without_a_row_has_its_ideal_only() -> None:
    found = predict(LAYERS["7"], "dgrad", table_of((1, 1)), {})
    assert (found.kernel, found.limit, found.ideal > 0) == ("", "memory", True)
    assert math.isnan(found.seconds)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("id", ["7", "220", "6", "1483"])  # depthwise, grouped, pointwise, transposed
def test_what_is_counted_is_what_runs(id: str, face: Face) -> None:
    """The kernel of "auto", where that is one of Triton's, with a grid that covers the result."""
    problem = problem_of(LAYERS[id], face)
    kernel, auto = kernel_of(problem), choose(problem)
    assert kernel is not None
    assert kernel.name == auto.name or auto.provider != "triton"
    launches, _ = launches_of(kernel, problem)
    assert all(launch.programs > 0 and launch.trips >= 1 for launch in launches)
    committed = prediction.read()["layers"][f"{id} {face}"]
    assert committed["kernel"] == kernel.name
    assert [programs for _, programs, _ in committed["launches"]] == [launch.programs for launch in launches]


def test_copies_are_counted_as_read_and_written() -> None:
    """An implicit GEMM of NCHW operands that copies both of them to channels last first, and its result back."""
    problem = problem_of(LAYERS["267"], "fprop")
    kernel = kernel_of(problem)
    assert kernel is not None
    assert len(kernel.copies(problem)) == 3
    elements = math.prod(problem.x_shape) + math.prod(problem.w_shape) + math.prod(problem.y_shape)
    assert launches_of(kernel, problem)[1] == 2 * 2 * elements


def test_every_layer_that_triton_takes_is_in_the_table() -> None:
    committed = prediction.read()
    work = [(layer, face) for layer in LAYERS.values() for face in FACES]
    taken = {f"{layer.id} {face}" for layer, face in work if kernel_of(problem_of(layer, face)) is not None}
    assert committed["layers"].keys() == taken
    used = {code for row in committed["layers"].values() for code, *_ in row["launches"]}
    assert used == committed["launches"].keys()
    assert prediction._json(committed) == prediction.RESULTS.read_text()
    assert json.loads(prediction._json(committed)) == committed
    assert json.loads(prediction.TRAFFIC.read_text()).keys() == taken


def test_no_launch_of_the_layers_spills() -> None:
    launches = prediction.read()["launches"]
    assert [figures["kernel"] for figures in launches.values() if figures["spills"]] == []


def test_stale_tables_are_told() -> None:
    fine = table_of((1, 1))
    assert stale(fine, fine) == []
    assert stale(table_of((2, 1)), fine) == ["7 fprop: launches something else: write it anew"]
    assert stale({**fine, "layers": {}}, fine) == ["7 fprop: launches something else: write it anew"]
    assert stale(fine, {**fine, "triton": "0"}) == ["the table is from Triton 0, and this is : write it anew"]


def test_the_report_says_that_it_is_a_prediction() -> None:
    note, _, body = report._predictions()
    assert "Prediction, not measured" in note
    assert body.count("<tr>") == 1 + len(LAYERS)
    assert '<td class="same">instructions' in body
