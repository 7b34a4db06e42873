"""A stand-in for the package `causal_conv1d`: what other packages import from it is ours.

causal_conv1d                          the functions, __version__
causal_conv1d.causal_conv1d_interface  the functions, and those that its tests compare them with
causal_conv1d.causal_conv1d_varlen     states of packed batches
causal_conv1d.cpp_functions            forward, backward and update below autograd, as mamba_ssm calls them
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from convext.causal import ops, reference
from convext.causal.sequences import final_states
from convext.choice import settings
from convext.problem import epilogue

NAME = "causal_conv1d"
VERSION = "1.7.0"  # of the package whose interface this is


def install() -> None:
    """From here on, `import causal_conv1d` gives every package of this process the functions of `convext`.

    A second call changes nothing.

    Raises:
        RuntimeError: the package itself is imported already: what has its functions would keep them.
    """
    present = sys.modules.get(NAME)
    if present is not None:
        if getattr(present, "__convext__", False):
            return
        version, file = (getattr(present, name, "unknown") for name in ("__version__", "__file__"))
        raise RuntimeError(
            f"{NAME} (version {version}, {file}) is already imported: "
            "call convext.causal_conv1d.install() before whatever imports it"
        )
    for module in _modules():
        sys.modules[module.__name__] = module


def _modules() -> list[ModuleType]:
    from convext import causal_conv1d as ours

    functions = {name: getattr(ours, name) for name in ("causal_conv1d_fn", "causal_conv1d_update")}
    references = {name: getattr(reference, name) for name in ("causal_conv1d_ref", "causal_conv1d_update_ref")}
    varlen = {
        "causal_conv1d_varlen_states": ours.causal_conv1d_varlen_states,
        "causal_conv1d_varlen_states_ref": reference.causal_conv1d_varlen_states_ref,
    }
    below = {
        f.__name__: f for f in (causal_conv1d_fwd_function, causal_conv1d_bwd_function, causal_conv1d_update_function)
    }
    parts = [
        _module(f"{NAME}.causal_conv1d_interface", {**functions, **references}),
        _module(f"{NAME}.causal_conv1d_varlen", varlen),
        _module(f"{NAME}.cpp_functions", below),
    ]
    children = {part.__name__.rpartition(".")[2]: part for part in parts}
    root = _module(NAME, {"__version__": VERSION, "__path__": [], "__convext__": True, **functions, **children})
    return [root, *parts]


def _module(name: str, attributes: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}: the functions of convext.causal_conv1d.")
    module.__spec__ = ModuleSpec(name, None, origin=__file__, is_package="__path__" in attributes)
    module.__file__ = __file__
    vars(module).update(attributes)
    return module


def _activation(silu_activation: bool) -> str:
    return epilogue.SILU if silu_activation else epilogue.IDENTITY


@torch.no_grad()
def causal_conv1d_fwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    final_states_out: Tensor | None,
    silu_activation: bool,
) -> Tensor:
    """The value of `causal_conv1d_fn`, below autograd."""
    tail = 1, _activation(silu_activation), settings.BACKEND
    y = ops.convolve(x, weight, bias, None, initial_states, seq_idx, None, *tail)
    if final_states_out is not None:
        final_states_out.copy_(final_states(x, weight.shape[1] - 1, initial_states, seq_idx, None))
    return y


@torch.no_grad()
def causal_conv1d_bwd_function(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dout: Tensor,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    dfinal_states: Tensor | None,
    dx: Tensor | None,
    return_dinitial_states: bool,
    silu_activation: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Its gradients by x (written to `dx`, where that is given), weight, bias and initial states."""
    tail = 1, _activation(silu_activation), settings.BACKEND
    by_x, by_w, by_bias, by_states = ops.gradients(dout, x, weight, bias, initial_states, seq_idx, None, *tail)
    if dfinal_states is not None:
        by_x, by_states = _with_final_states(x, weight, initial_states, seq_idx, dfinal_states, by_x, by_states)
    if dx is not None:
        by_x = dx.copy_(by_x)
    wanted = return_dinitial_states and initial_states is not None
    return by_x, by_w, None if bias is None else by_bias, by_states if wanted else None


def _with_final_states(
    x: Tensor, w: Tensor, states: Tensor | None, seq_idx: Tensor | None, grad: Tensor, by_x: Tensor, by_states: Tensor
) -> tuple[Tensor, Tensor]:
    """Adds what comes through the final states."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, states) if t is not None]
        final = final_states(leaves[0], w.shape[1] - 1, leaves[1] if states is not None else None, seq_idx, None)
        more = torch.autograd.grad(final, leaves, grad, materialize_grads=True)
    return by_x + more[0], by_states if states is None else by_states + more[1]


@torch.no_grad()
def causal_conv1d_update_function(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu_activation: bool,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
) -> Tensor:
    """`causal_conv1d_update`, below autograd."""
    tail = 1, _activation(silu_activation), settings.BACKEND
    return ops.step(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, *tail)
