"""Whether somebody wants to see what a layer does, so that it has to run as a module."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_observed(layer: nn.Module) -> bool:
    """Whether `layer` has hooks, or a forward that somebody has set, or all modules have hooks."""
    patched = not vars(layer).keys().isdisjoint(("forward", "_conv_forward"))
    return patched or bool(layer._forward_hooks or layer._forward_pre_hooks) or _has_any_global_hook()
