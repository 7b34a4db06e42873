"""Sweeps: the grids are what they say, pass the same gate, and come out as a heat map."""

from pathlib import Path

import pytest
import torch

from convext.__main__ import main
from convext.benchmarks.cases import sweep
from convext.benchmarks.cases.sweep import SWEEPS, position, sweep_layers
from convext.benchmarks.reporting.results import Results, Row


@pytest.mark.parametrize("name", SWEEPS)
def test_every_cell_is_a_layer_of_that_kind(name: str) -> None:
    layers = sweep_layers(name)
    found = {position(layer.id): layer for layer in layers}
    assert set(found) == {(name, row, column) for row in SWEEPS[name].rows for column in SWEEPS[name].columns}
    for layer in layers:
        assert layer.output[2:] == layer.input[2:]
        problem = layer.problem("fprop", torch.float32)
        expected = {"causal": "depthwise"}.get(name, name)
        assert problem.family == ("dense" if name == "dilated" and layer.dilation == (1, 1) else expected)
        assert layer.family == problem.family


def test_the_axes_are_the_sizes_they_are_named_after() -> None:
    def one(name: str, row: int, column: int):  # type: ignore[no-untyped-def]
        return next(layer for layer in sweep_layers(name) if position(layer.id) == (name, row, column))

    assert one("depthwise", 64, 7).weight == (64, 1, 7, 7)
    assert one("dilated", 64, 8).dilation == (8, 8)
    assert one("grouped", 256, 16).weight == (256, 16, 3, 3)
    assert one("pointwise", 64, 512).weight == (512, 64, 1, 1)
    causal = one("causal", 768, 4)
    assert (causal.begin, causal.end, causal.weight) == ((3,), (0,), (768, 1, 4))


def test_a_layer_of_a_network_is_in_no_sweep() -> None:
    assert position("2080") is None
    assert position("A01") is None


def test_a_sweep_from_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    small = sweep.Sweep("channels", (4, 8), "kernel", (3, 5), SWEEPS["depthwise"].layer)
    monkeypatch.setitem(SWEEPS, "depthwise", small)
    monkeypatch.setattr(sweep, "IMAGES", 1)
    arguments = ["--sweep", "depthwise", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["bench", *arguments, "--work", "fprop", "wgrad"]) == 0
    (path,) = tmp_path.glob("*.jsonl")
    rows = Results.read(path).rows
    assert {position(row.layer) for row in rows} == {("depthwise", c, k) for c in (4, 8) for k in (3, 5)}
    assert [row.work for row in rows].count("wgrad") == 4
    assert all(row.ratio() for row in rows)
    assert [picture.name.rpartition("-")[2] for picture in tmp_path.glob("*.png")] == ["sweep.png"]
    assert "Geometric means by network" not in next(tmp_path.glob("*.html")).read_text()


def test_the_map_has_each_ratio_in_its_place() -> None:
    pictures = pytest.importorskip("convext.benchmarks.reporting.pictures", reason="matplotlib is not installed")

    def row(c: int, k: int, ratio: float) -> Row:
        name = "triton.stencil/nc"
        return Row(
            f"sweep-depthwise-{c}-{k}", "", "depthwise", "fprop", "float32", False, 1, "nc", "all", 1.0, "memory",
            chosen={"nc": "triton.stencil"}, times={name: [1.0] * 3}, ratios={name: [ratio] * 3},
        )  # fmt: skip

    rows = [row(64, 5, 1.25), row(32, 3, 0.5), row(64, 3, 3.0)]  # one cell was not timed
    figure = pictures.sweep_map(rows, "d")
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "0.50", (1, 0): "", (0, 1): "3.00", (1, 1): "1.25"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["32", "64"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("kernel", "channels")
    pictures.plt.close(figure)
