"""No layer of a real network needs torch's own convolution on a GPU: a Triton kernel takes each, in every face."""

import pytest
import torch

from convext import explain
from convext.benchmarks.cases.layers import Layer, model_layers
from convext.choice import registry
from convext.problem import FACES, Face

LAYERS = model_layers()


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer.id}-{layer.family}")
def test_a_triton_kernel_takes_it(layer: Layer, face: Face) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for channels_last in (False, True):
            problem = layer.problem(face, dtype, channels_last, "cuda", 90)
            takers = [kernel.name for kernel in registry.kernels() if registry.refusal(kernel, problem) is None]
            assert any(name.startswith("triton.") for name in takers), takers


@pytest.mark.parametrize("family", sorted({layer.family for layer in LAYERS}))
def test_explain_names_a_triton_kernel_or_says_in_numbers_why_not(family: str) -> None:
    for layer in (layer for layer in LAYERS if layer.family == family):
        problem = layer.problem(layer.forward, torch.bfloat16, False, "cuda", 90)
        text = explain(problem)
        if "-> triton." not in text:
            assert any(f"-> {name}" in text for name in ("aten.convolution: takes it", "cuda."))
            assert "measured near here: " in text or str(registry.cudnns_best(problem)) in text
