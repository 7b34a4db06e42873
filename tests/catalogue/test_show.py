"""`python -m convext show`: the wires are the index equation's, and every picture can be written."""

from __future__ import annotations

import sys
import xml.dom.minidom
from pathlib import Path

import pytest
import torch
from torch import nn

from convext.__main__ import main
from convext.analysis import dependence, pictures
from convext.analysis.pictures import Line
from convext.nn import Conv1d, Conv2d, ConvTranspose1d


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("k", "s", "p", "d"), [(3, 1, 0, 1), (3, 2, 1, 1), (2, 3, 0, 2), (4, 2, 2, 2)])
def test_wires_are_what_the_layer_reads(transposed: bool, k: int, s: int, p: int, d: int) -> None:
    line = Line(9, k, s, p, d, transposed)
    layer = ConvTranspose1d(1, 1, k, s, p, dilation=d) if transposed else Conv1d(1, 1, k, s, p, d)
    read = dependence(layer, torch.randn(1, 1, 9))
    drawn = torch.zeros_like(read)
    for o, _, i in line.wires:
        if 0 <= i < 9:
            drawn[o, i] = True
    assert torch.equal(drawn, read)
    assert line.outputs == len(read)


def test_a_line_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "conv", "--stride", "2", "--padding", "1", "--input", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "convolution, kernel 3, stride 2, padding 1, dilation 1: 5 inputs, 3 outputs",
        "",
        " output │  ·  0  1  2  3  4  ·   <- input",
        "      0 │  0  1  2",
        "      1 │        0  1  2",
        "      2 │              0  1  2",
    ]


def test_padding_can_crop_every_wire(capsys: pytest.CaptureFixture[str]) -> None:
    geometry = ["--kernel", "1", "--stride", "3", "--padding", "1", "--input", "2"]
    assert main(["show", "conv", "--transposed", *geometry]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [" output │  0  1   <- input", "      0 │", "      1 │"]


def test_a_stack_and_an_overlap_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "stack", "--dilations", "2", "2"]) == 0
    assert capsys.readouterr().out == "kernel 3, dilations 2, 2: 5/9 = 0.5556 read\n\n█·█·█·█·█\n"
    assert main(["show", "overlap"]) == 0
    assert capsys.readouterr().out == "transposed, kernel 3, stride 2: 2, 1, 2, 1, .. inputs meet: a checkerboard\n"
    assert main(["show", "overlap", "--kernel", "4"]) == 0
    assert capsys.readouterr().out.endswith("2, 2, 2, 2, .. inputs meet: even\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["conv", "--stride", "2", "--padding", "1"],
        ["conv", "--transposed", "--stride", "2", "--input", "4"],
        ["conv", "--rank", "2", "--dilation", "2", "--padding", "1"],
        ["conv", "--rank", "2", "--transposed", "--stride", "2", "--input", "3"],
        ["stack", "--dilations", "2", "2", "2"],
        ["stack", "--kernel", "2", "--causal"],
        ["overlap", "--kernel", "5", "--stride", "3"],
        ["overlap", "--kernel", "4"],
    ],
)
def test_pictures(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    svg, png = tmp_path / "picture.svg", tmp_path / "picture.png"
    assert main(["show", *arguments, "--out", str(svg)]) == 0
    assert xml.dom.minidom.parse(str(svg)).documentElement.tagName == "svg"
    assert main(["show", *arguments, "--out", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv", "--input", "2"], "nothing to draw: the output would have 0 elements"),
        (["conv", "--kernel", "0"], "at least 1"),
        (["conv", "--rank", "2"], "add --out"),
        (["features", "--image", "photo.png"], "add --out"),
        (["features", "--out", "maps.png"], "add --image"),
        (["conv", "--out", "picture"], "--out picture names no format: end it in .svg, .png or .pdf"),
        (["conv", "--out", "picture.nosuch"], "nosuch"),
        (["features", "--out", "maps.png", "--image", "photo.png", "--model", "convext.blocks:Nothing"], "Nothing"),
    ],
)
def test_what_cannot_be_drawn(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["show", "--out", "picture.svg"]) == 2
    assert "pip install 'convext[plots]'" in capsys.readouterr().err


def test_feature_maps_come_from_a_hook_that_is_removed() -> None:
    model = nn.Sequential(Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU()).eval()
    x = torch.randn(1, 3, 224, 224)
    features, activations = (pictures.feature_maps(model, layer, x) for layer in ("0", "2"))
    assert features.shape == activations.shape == (1, 64, 112, 112)
    assert torch.equal(features, model[0](x))
    assert features.min() < 0 <= activations.min()
    assert not features.requires_grad
    assert all(not m._forward_hooks for m in model.modules())


def test_feature_maps_of_a_layer_that_is_not_there_or_does_not_run() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ValueError, match="'conv' did not run"):
        pictures.feature_maps(Unused(), "conv", torch.zeros(1, 1, 2, 2))
    with pytest.raises(AttributeError):
        pictures.feature_maps(Unused(), "other", torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_features_of_an_image_file(kind: str, tmp_path: Path) -> None:
    pyplot_image = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib")
    photo, sheet = tmp_path / f"photo.{kind}", tmp_path / "maps.png"
    pyplot_image.imsave(photo, torch.rand(12, 10, 3).numpy())
    read = pictures.image(photo)
    assert read.shape == (1, 3, 12, 10)
    assert 0 <= read.min() < read.max() <= 1
    assert main(["show", "features", "--image", str(photo), "--layer", "2", "--out", str(sheet)]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_feature_maps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    maps = torch.randn(64, 9, 8)
    figure = pictures.figure_of_features(maps, title="first layer")
    assert len([axes for axes in figure.axes if axes.images]) == 8
    (scale,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert scale.get_ylim() == tuple(sign * maps[:8].abs().max().item() for sign in (-1, 1))
    figure.savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_line_names_its_rows_and_padding_is_no_index(padding: int, transposed: bool) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    line = Line(5, 3, 2, padding, transposed=transposed)
    (axes,) = pictures.figure_of_line(line).axes
    written = [text.get_text() for text in axes.texts]
    assert sorted(written, key=len)[-2:] == ["input", "output"]
    assert written.count("0") == 2  # of the inputs, and of the outputs
    padded = len(line.read) - line.inputs
    assert written.count("") == padded
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["tap 0", "tap 1", "tap 2", *(["padding: zeros"] if padded else [])]
