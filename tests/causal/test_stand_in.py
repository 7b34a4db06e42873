"""convext.causal_conv1d.install(): what other packages import, and transformers' own Mamba mixers on it."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import convext

NAMES = [f"causal_conv1d{part}" for part in ("", ".causal_conv1d_interface", ".causal_conv1d_varlen", ".cpp_functions")]


@pytest.fixture
def installed() -> Iterator[None]:
    convext.causal_conv1d.install()
    yield
    for name in NAMES:
        sys.modules.pop(name)


def test_it_stands_in_for_the_package_and_its_modules(installed):
    import causal_conv1d
    from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
    from causal_conv1d.causal_conv1d_interface import causal_conv1d_fn as again
    from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref, causal_conv1d_update_ref
    from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states, causal_conv1d_varlen_states_ref

    assert causal_conv1d_fn is again is convext.causal_conv1d.causal_conv1d_fn
    assert causal_conv1d_update is convext.causal_conv1d.causal_conv1d_update
    assert all(map(callable, (causal_conv1d_ref, causal_conv1d_update_ref)))
    assert all(map(callable, (causal_conv1d_varlen_states, causal_conv1d_varlen_states_ref)))
    assert int(causal_conv1d.__version__.split(".")[0]) >= 1
    for name in NAMES:
        assert importlib.util.find_spec(name) is importlib.import_module(name).__spec__
    convext.causal_conv1d.install()
    assert sys.modules["causal_conv1d"] is causal_conv1d


def test_it_refuses_where_the_package_itself_is_in_use(monkeypatch):
    real = ModuleType("causal_conv1d")
    real.__version__ = "1.5.0"
    monkeypatch.setitem(sys.modules, "causal_conv1d", real)
    with pytest.raises(RuntimeError, match=r"version 1\.5\.0, unknown\) is already imported: call"):
        convext.causal_conv1d.install()
    assert sys.modules["causal_conv1d"] is real


def test_importing_convext_installs_nothing():
    code = "import convext, sys; sys.exit('causal_conv1d' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_the_functions_below_autograd(installed, silu, has_bias):
    from causal_conv1d.cpp_functions import (
        causal_conv1d_bwd_function,
        causal_conv1d_fwd_function,
        causal_conv1d_update_function,
    )

    x, w, states = torch.randn(2, 5, 9), torch.randn(5, 4), torch.randn(2, 5, 3)
    bias = torch.randn(5) if has_bias else None
    leaves = [t.clone().requires_grad_() for t in (x, states, w) + (bias,) * has_bias]
    whole = torch.cat([leaves[1], leaves[0]], 2)
    z = torch.nn.functional.conv1d(whole, leaves[2].unsqueeze(1), leaves[3] if has_bias else None, groups=5)
    y, final = torch.nn.functional.silu(z) if silu else z, whole[:, :, -3:]

    out = torch.empty(2, 5, 3)
    torch.testing.assert_close(causal_conv1d_fwd_function(x, w, bias, None, states, out, silu), y)
    assert torch.equal(out, final)
    dy, dfinal, dx = torch.randn_like(y), torch.randn_like(final), torch.empty_like(x)
    by = torch.autograd.grad((y, final), leaves, (dy, dfinal))
    ours = causal_conv1d_bwd_function(x, w, bias, dy, None, states, dfinal, dx, True, silu)
    assert ours[0] is dx
    for a, b in zip((ours[0], ours[3], ours[1]) + (ours[2],) * has_bias, by, strict=True):
        torch.testing.assert_close(a, b)
    assert has_bias or ours[2] is None
    assert causal_conv1d_bwd_function(x, w, bias, dy, None, None, None, None, False, silu)[3] is None
    torch.testing.assert_close(causal_conv1d_update_function(x, states.clone(), w, bias, silu, None, None), y)


# -------------------------------------------------------------------------------------------------- transformers


def mamba(kind: str) -> tuple[ModuleType, torch.nn.Module]:
    """A model of two layers with random weights, and the module that holds its mixer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": True}
    if kind == "mamba":
        config, model = transformers.MambaConfig(**sizes), transformers.MambaForCausalLM
    else:
        config = transformers.Mamba2Config(**sizes, num_heads=8, head_dim=8, n_groups=2, chunk_size=8)
        model = transformers.Mamba2ForCausalLM
    return importlib.import_module(f"transformers.models.{kind}.modeling_{kind}"), model(config)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_transformers_mixers(kind, monkeypatch):
    """Logits, gradients, and tokens one by one are those of the slow path, whose two functions are replaced."""
    module, model = mamba(kind)
    tokens = torch.randint(0, 50, (2, 19))

    def run():
        model.zero_grad()
        output = model(tokens, labels=tokens)
        output.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        generated = model.generate(tokens[:, :7], max_new_tokens=12, do_sample=False, pad_token_id=0)
        return output.logits.detach(), gradients, generated

    slow, calls = run(), []

    def counted(function):
        def call(*arguments, **keywords):
            calls.append(function.__name__)
            return function(*arguments, **keywords)

        return call

    for function in (convext.causal_conv1d.causal_conv1d_fn, convext.causal_conv1d.causal_conv1d_update):
        monkeypatch.setattr(module, function.__name__, counted(function))
    ours = run()
    torch.testing.assert_close(ours[0], slow[0])
    for a, b in zip(ours[1], slow[1], strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(ours[2], slow[2])
    assert calls.count("causal_conv1d_fn") >= 4
    assert calls.count("causal_conv1d_update") >= 20
