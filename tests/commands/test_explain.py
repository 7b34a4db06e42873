"""What `explain` says: in the words of the layer, with what refuses sorted by its reason."""

from __future__ import annotations

import pytest
import torch

import convext
from convext.choice import cpu_table, registry
from convext.conversion.fusion import Fused
from convext.problem.epilogue import Epilogue

LAYERS = {
    "convolution": (
        convext.Conv2d(8, 6, 3, padding=1),
        [
            "forward (fprop) of a dense 2-D convolution: input 2x8x9x7, weight 6x8x3x3 -> output 2x6x9x7",
            "input gradient (dgrad) of a dense 2-D convolution: "
            "output gradient 2x6x9x7, weight 6x8x3x3 -> input gradient 2x8x9x7",
            "weight gradient (wgrad) of a dense 2-D convolution: "
            "input 2x8x9x7, output gradient 2x6x9x7 -> weight gradient 6x8x3x3",
        ],
    ),
    "transposed": (
        convext.ConvTranspose2d(8, 6, 3),
        [
            "forward (dgrad) of a transposed dense 2-D convolution: input 2x8x9x7, weight 8x6x3x3 -> output 2x6x11x9",
            "input gradient (fprop) of a transposed dense 2-D convolution: "
            "output gradient 2x6x11x9, weight 8x6x3x3 -> input gradient 2x8x9x7",
            "weight gradient (wgrad) of a transposed dense 2-D convolution: "
            "output gradient 2x6x11x9, input 2x8x9x7 -> weight gradient 8x6x3x3",
        ],
    ),
}


@pytest.mark.parametrize(("layer", "heads"), LAYERS.values(), ids=LAYERS)
def test_tensors_have_the_layers_names(layer: torch.nn.Module, heads: list[str]) -> None:
    text = convext.explain(layer, (2, 8, 9, 7))
    assert [part.splitlines()[0] for part in text.split("\n\n")[:3]] == heads


def test_what_was_measured_with_one_thread_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are of a number of threads, and torch takes one a core unless it is told otherwise."""
    monkeypatch.setattr(cpu_table, "fastest", lambda problem, threads: (("plain.swap", ()),) if threads == 1 else ())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    forward = convext.explain(convext.Conv2d(8, 8, 3, groups=8), (2, 8, 9, 7)).split("\n\n")[0]
    assert forward.splitlines()[-1].strip() == (
        "nothing was measured near here to be faster than ATen with 8 threads; plain.swap was with one"
    )


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({"fprop": 61.0}, "61 us in fprop; the way to our kernels costs 60 us, 210 with a backward pass\n"
         "  a forward alone: as above; with both gradients: torch.nn"),
        ({"dgrad": 1000.0, "wgrad": 0.4}, "1,000 us in dgrad, 0 us in wgrad; the way to our kernels costs 60 us, "
         "210 with a backward pass\n  a forward alone: torch.nn; with both gradients: as above"),
        ({}, "both gradients: one after the other"),
    ],
)  # fmt: skip
def test_whose_a_call_is_on_a_cpu(saved: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: saved)
    monkeypatch.setattr(registry, "choose_both", lambda *_: None)
    assert convext.explain(convext.Conv2d(8, 8, 3, groups=8), (2, 8, 9, 7)).endswith(told)
    dense = convext.explain(convext.Conv2d(8, 8, 3), (2, 8, 9, 7)).split("\n\n")[-1]
    assert dense.startswith("a layer's call is torch.nn's all the same") is bool(saved)


def test_one_line_for_all_that_refuse_for_one_reason() -> None:
    text = convext.explain(convext.Conv2d(8, 6, 3), (2, 8, 9, 7))
    (line,) = {line for line in text.splitlines() if "CUDA kernels run on cuda" in line}
    assert line == "     no: cuda.stencil, cuda.igemm: tensors are on cpu; CUDA kernels run on cuda"
    assert "explain with --arch 90" in text
    assert "--arch 90" not in convext.explain(convext.Conv2d(8, 6, 3), (2, 8, 9, 7), arch=90)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("onednn", "clamp(0.0, 6.0), by 'onednn', before the store: saves 2 passes over the result, 0.04 MB"),
        ("conv", "clamp(0.0, 6.0), in torch's operators, after the store: 2 passes over the result, 0.04 MB"),
    ],
)
def test_a_fused_layer_tells_the_passes_that_it_saves(way: str, told: str) -> None:
    layer = Fused(convext.Conv2d(8, 8, 3, padding=1, groups=8), Epilogue("clamp", (0.0, 6.0)), adds=False)
    layer.way = way
    text = convext.explain(layer, (1, 8, 24, 24))  # 8 * 24 * 24 results of 4 bytes, read and written
    assert text.startswith("forward (fprop) of a depthwise 2-D convolution")
    assert text.endswith(f"epilogue: {told}")
    both = Fused(convext.Conv2d(8, 8, 1), Epilogue("relu"), adds=True)
    assert "residual, relu, by 'onednn', before the store: saves 4 passes" in convext.explain(both, (1, 8, 24, 24))


@pytest.mark.parametrize(("groups", "dtype"), [(2, torch.float32), (2, torch.bfloat16), (1, torch.float64)], ids=str)
def test_a_fused_layer_tells_of_no_pass_that_torchs_operator_makes(groups: int, dtype: torch.dtype) -> None:
    """To the results of groups it adds after they are stored; and oneDNN has no float64."""
    layer = Fused(convext.Conv2d(8, 8, 1, groups=groups, dtype=dtype), Epilogue("relu"), adds=True)
    assert layer.way == "onednn"
    assert "residual, relu, in torch's operators, after the store: 4 passes" in convext.explain(layer, (1, 8, 24, 24))


def test_a_fused_layer_on_a_gpu_tells_what_finishes_its_sums() -> None:
    """The kernel that is chosen there; torch's operators where an activation follows a sum of two tensors."""
    depthwise = convext.Conv2d(8, 8, 3, padding=1, groups=8)
    layer = Fused(depthwise, Epilogue("clamp", (0.0, 6.0)), adds=False)
    told = "clamp(0.0, 6.0), by triton.stencil, before the store: saves 2 passes over the result, 0.04 MB"
    assert convext.explain(layer, (1, 8, 24, 24), arch=90).endswith(told)
    both = Fused(depthwise, Epilogue("relu"), adds=True)
    assert "in torch's operators, after the store: 4 passes" in convext.explain(both, (1, 8, 24, 24), arch=90)
