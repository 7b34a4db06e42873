"""Autocast: floating operands in the autocast dtype, gradients in their own, as torch's convolutions do."""

from dataclasses import replace

import pytest
import torch
from geometries import operator

import convext
from convext.commands.check import agreement


def spellings(device):
    old = torch.cuda.amp.autocast if device == "cuda" else torch.cpu.amp.autocast
    return {"torch.autocast": lambda: torch.autocast(device, torch.bfloat16), "amp": lambda: old(dtype=torch.bfloat16)}


@pytest.mark.parametrize("spelling", ["torch.autocast", "amp"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_operators_cast_their_operands(spelling, face, geometry, device):
    a, b, bias = geometry.draw(face, device, torch.float32)
    a, b = a.requires_grad_(), b.requires_grad_()
    arguments = (*geometry.tail(face), "aten")
    with spellings(device)[spelling]():
        result = operator(face)(a, b, bias, *arguments)
    assert result.dtype == torch.bfloat16
    rounded = [None if t is None else t.detach().bfloat16() for t in (a, b, bias)]
    problem = replace(geometry.problem(face, torch.bfloat16), device=a.device.type)
    assert agreement(problem, *rounded, result).ok
    result.sum().backward()
    assert a.grad.dtype == b.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cls", [convext.Conv2d, convext.ConvTranspose2d])
def test_layers_have_torchs_dtype(cls, dtype, backend, device):
    layer, x = cls(3, 4, 3, device=device, dtype=dtype), torch.randn(1, 3, 5, 5, device=device, dtype=dtype)
    torchs = getattr(torch.nn, cls.__name__)(3, 4, 3, device=device, dtype=dtype)
    with torch.autocast(device, torch.bfloat16):
        assert layer(x).dtype == torchs(x).dtype


def test_mixed_types_meet_in_autocast(backend, device):
    layer = convext.Conv2d(3, 4, 3, device=device)
    with torch.autocast(device, torch.bfloat16):
        y = layer(torch.randn(1, 3, 5, 5, device=device, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16


def test_autocast_switched_off_within(backend, device):
    layer, x = convext.Conv2d(3, 4, 3, device=device), torch.randn(1, 3, 5, 5, device=device)
    with torch.autocast(device, torch.bfloat16), torch.autocast(device, enabled=False):
        assert layer(x).dtype == torch.float32


def test_a_scaled_step_equals_torchs_plain_one(backend, device):
    steps = []
    for module, enabled in ((torch.nn, False), (convext, True)):
        torch.manual_seed(0)
        layer = module.Conv2d(3, 4, 3, device=device)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**12, enabled=enabled)
        loss = layer(torch.randn(2, 3, 6, 6, device=device)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        steps.append(layer.weight.detach().clone())
    torch.testing.assert_close(steps[0], steps[1])


def casts(layer, device, **region):
    """How often a layer's five uses in one autocast region cast something."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            self.count += "_to_copy" in str(function)
            return function(*arguments, **(keywords or {}))

    y = torch.randn(1, 4, 6, 6, device=device)
    with torch.autocast(device, dtype=torch.bfloat16, **region), Recorder() as recorder:
        for use in range(5):
            with torch.set_grad_enabled(use % 2 == 0):
                y = layer(y)
    return recorder.count


@pytest.mark.parametrize("region", [{}, {"cache_enabled": False}], ids=str)
def test_a_region_casts_as_often_as_torchs(region, device):
    ours, theirs = convext.Conv2d(4, 4, 3, padding=1).to(device), torch.nn.Conv2d(4, 4, 3, padding=1).to(device)
    with convext.backend("aten"):
        assert casts(ours, device, **region) == casts(theirs, device, **region)


def test_what_a_region_keeps_goes_with_it(device):
    """Weights changed between two regions, behind autograd's back too, are the new ones in the second."""
    ours, theirs = convext.Conv2d(4, 4, 3).to(device), torch.nn.Conv2d(4, 4, 3).to(device)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 4, 6, 6, device=device)
    for _ in range(2):
        results = []
        for layer in (ours, theirs):
            with convext.backend("aten"), torch.autocast(device, dtype=torch.bfloat16):
                with torch.no_grad():
                    layer(x)  # a copy that records nothing must not be the one that trains
                y = layer(x)
            layer.zero_grad()
            y.float().sum().backward()
            results += [y.float(), layer.weight.grad]
            layer.weight.data.mul_(2)
        torch.testing.assert_close(results[0], results[2], rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(results[1], results[3], rtol=2e-2, atol=2e-2)


NOT_KEPT = {
    "frozen": lambda w: w.clone(),
    "computed": lambda w: w.clone().requires_grad_() * 1,
    "a view": lambda w: w.clone().flatten().view(w.shape).requires_grad_(),
    "a leaf in the region's dtype": lambda w: w.bfloat16().requires_grad_(),
    "a leaf of another dtype": lambda w: w.half().requires_grad_(),
}


@pytest.mark.parametrize("kind", NOT_KEPT)
def test_what_changes_within_a_region_is_cast_anew(kind, device):
    """torch keeps the copies of trained leaves of float32 alone."""
    x, w = torch.randn(1, 4, 6, 6, device=device), torch.randn(4, 4, 3, 3, device=device)
    results = []
    for module in (convext.functional, torch.nn.functional):
        weight = NOT_KEPT[kind](w)
        with convext.backend("aten"), torch.autocast(device, dtype=torch.bfloat16):
            module.conv2d(x, weight)
            with torch.no_grad():
                weight.mul_(2)
            results.append(module.conv2d(x, weight))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mapped", ["x", "w", "bias", "all", "x without bias"])
def test_what_is_mapped_is_cast_as_torch_casts_it(mapped):
    """On a CPU not at all: torch's autocast does not know the operator that its own rule for vmap calls."""
    x, w, bias = torch.randn(3, 1, 2, 4, 3), torch.randn(3, 2, 2, 2, 2), torch.randn(3, 2)
    dims = tuple(0 if mapped in (name, "all") else None for name in ("x", "w", "bias"))
    operands = [t if dim == 0 else t[0] for t, dim in zip((x, w, bias), dims, strict=True)]
    if "without" in mapped:
        dims, operands = (0, None, None), [x, w[0], None]

    def results(function):
        with torch.autocast("cpu", dtype=torch.bfloat16), convext.backend("aten"):
            return torch.vmap(function, in_dims=dims)(*operands)

    actual, expected = results(convext.functional.conv2d), results(torch.nn.functional.conv2d)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected)
