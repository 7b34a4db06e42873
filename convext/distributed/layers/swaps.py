"""Which class each layer of a model gets, and the layers that no rule is known for, by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from convext.distributed.layers import norms, pooling
from convext.distributed.layers import sharded as layers
from convext.nn import OURS, TORCHS

# Computed by DTensor's own rules: element by element, or along an axis that it gathers where it has to.
_BY_TORCH: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softmax, nn.LogSoftmax,
    nn.Dropout,
)  # fmt: skip
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_SWAPS: dict[type[nn.Module], type[layers.Sharded]] = {
    **dict.fromkeys((*OURS, *TORCHS), layers.Convolution),
    nn.Linear: layers.Linear,
    nn.PReLU: layers.PReLU,
    nn.Flatten: layers.Flatten,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), norms.BatchNorm),
    **dict.fromkeys((nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), norms.GroupNorm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), pooling.MaxPool),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), pooling.AvgPool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), pooling.AvgPool),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d), pooling.Upsample),
}


def of_model(model: nn.Module) -> dict[nn.Module, type[nn.Module]]:
    """The class of each module that gets one.

    Raises:
        ValueError: modules that no rule is known for, all of them by name.
    """
    refused = {name: why for name, module in model.named_modules() if (why := _why_not(module)) is not None}
    if refused:
        told = "\n".join(f"  {name or 'the model'}: {why}" for name, why in refused.items())
        raise ValueError(f"no rule is known for {len(refused)} of the model's layers:\n{told}")
    kinds: dict[nn.Module, Any] = {module: type(module) for module in model.modules()}
    return {module: _class(kind) for module, kind in kinds.items() if kind in _SWAPS}


def _why_not(module: Any) -> str | None:
    kind = type(module)
    if issubclass(kind, layers.Sharded):
        return f"{kind.__name__} was parallelized before"
    if kind in _SWAPS:
        if getattr(module, "return_indices", False):
            return f"{kind.__name__} with return_indices"
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            return f"{kind.__name__} with running statistics"
        if isinstance(module, nn.Upsample) and not module.mode.startswith("nearest"):
            return f"{kind.__name__} of mode {module.mode!r}: only nearest ones have rules"
        return None
    if kind in _BY_TORCH:
        return None
    if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
        return f"{kind.__name__} has parameters or buffers of its own"
    ours_or_torchs = kind.__module__.partition(".")[0] in ("torch", "convext")
    is_leaf = not any(True for _ in module.children()) and not isinstance(module, _CONTAINERS)
    return kind.__name__ if ours_or_torchs and is_leaf else None


@cache
def _class(kind: Any) -> type[nn.Module]:
    """A convolution of torch.nn's becomes convext's, with this behaviour before it; another layer stays what it is."""
    sharded = _SWAPS[kind]
    return type(f"Sharded{kind.__name__}", (sharded, OURS.get(kind, kind)), {"__module__": sharded.__module__})


def is_by_channel(module: nn.Module) -> bool:
    """Whether each of a layer's parameters has one value for each channel."""
    return isinstance(module, (_BatchNorm, nn.GroupNorm, _InstanceNorm))
