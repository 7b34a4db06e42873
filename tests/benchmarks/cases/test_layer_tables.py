"""The layer tables give the sizes, FLOPs, bytes and ideal times that were recorded when they were traced."""

import json
import math
from dataclasses import replace

import pytest
import torch

from convext.benchmarks.cases.layers import FOLDER, Layer, anchor_layers, model_layers
from convext.problem import FACES, output_size
from convext.problem.roofline import H100, bound, ideal_seconds

RECORDED = json.loads((FOLDER / "model_layers.json").read_text())


@pytest.mark.parametrize(
    ("layer", "row"), list(zip(model_layers(), RECORDED, strict=True)), ids=lambda v: getattr(v, "id", "")
)
def test_recorded_figures(layer: Layer, row: dict) -> None:
    problem = layer.problem(layer.forward, torch.bfloat16)
    assert list(layer.output) == row["output"]
    assert problem.flops == row["flops"]
    padded = math.prod(row["input"]) - math.prod(layer.input)  # zeros that the network wrote, and we do not
    outputs = layer.output[1] if layer.bias else 0
    assert problem.ideal_bytes + 2 * (padded + outputs) == row["bytes_bf16"]
    assert bound(problem, H100) == row["bound"]
    assert ideal_seconds(problem, H100) * 1e6 == pytest.approx(
        row["roof_us"], rel=2e-4 if not padded else 0.01, abs=6e-4
    )


def test_every_face_of_a_layer_is_one_convolution() -> None:
    for layer in model_layers() + anchor_layers():
        problems = [layer.problem(face, torch.float32) for face in FACES]
        assert {p.flops for p in problems} == {problems[0].flops}
        p = problems[0]
        sizes = output_size(p.input, p.kernel, p.stride, layer.begin, layer.end, p.dilation)
        assert sizes == p.output, layer.id


def test_zeros_before_the_layer_belong_to_it() -> None:
    wavenet = next(layer for layer in model_layers() if layer.id == "2302")
    assert (wavenet.input, wavenet.begin, wavenet.end) == ((8, 256, 16000), (512,), (0,))
    assert wavenet.problem("fprop", torch.float32).end == (0,)


def test_separable_shapes_are_two_layers() -> None:
    first, second = (layer for layer in anchor_layers() if layer.id.startswith("A27"))
    assert (first.family, second.family) == ("depthwise", "pointwise")
    assert second.input == first.output
    assert second.output == (16, 128, 512, 512)
    assert len(model_layers()) == 67
    assert len(anchor_layers()) == 48


def test_cut_layers_fit_and_remain_the_same_kind() -> None:
    for layer in model_layers() + anchor_layers():
        cut = layer.fit(1e8, 4e6)
        problem = cut.problem(cut.forward, torch.float32)
        assert problem.family == layer.problem(layer.forward, torch.float32).family
        assert cut.weight == layer.weight
        assert bool(cut.cut) == (cut.input != layer.input)
        reach = [d * (k - 1) + 1 for k, d in zip(layer.weight[2:], layer.dilation, strict=True)]
        assert all(i >= min(was, r) for i, was, r in zip(cut.input[2:], layer.input[2:], reach, strict=True))
        within = problem.flops <= 1e8 and problem.ideal_bytes <= 4e6
        assert within or (
            cut.input[0] == 1 and all(i // 2 < max(8, r) for i, r in zip(cut.input[2:], reach, strict=True))
        )
    assert layer.fit(1e18, 1e18) == layer


@pytest.mark.parametrize(("images", "ease", "expected"), [(8, 1.0, 8), (8, 0.25, 4), (8, 0.05, 1), (None, 1.0, 16)])
def test_more_images_only_while_they_are_easy(images: int | None, ease: float, expected: int) -> None:
    """Sixteen images need just the limit: of that, `ease` is for more than one."""
    layer = next(layer for layer in model_layers() if layer.family == "depthwise")
    layer = replace(layer, input=(16, *layer.input[1:]))
    fitted = layer.fit(layer.problem("fprop", torch.float32).flops, 1e18, images, ease)
    assert fitted.input == (expected, *layer.input[1:])
    assert fitted.cut == (f"n 16>{expected}" if expected < 16 else "")
