"""What torch.utils.checkpoint computes again, in a backward pass, runs under the settings of its forward.

torch keeps the random state, the autocast state and the default device for a recomputation, and has no place for other
packages' settings. A backward pass after `with convext.backend(...)` would run other kernels than the forward did, or
stop because they save other tensors. So the function that is checkpointed takes its settings along.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch.utils.checkpoint as checkpoint

from convext.choice import settings

Function = Callable[..., Any]
# What the kind that is not reentrant calls: in torch 2.14, and before.
_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")


def keep_settings() -> None:
    """Teaches both kinds of checkpoint, once."""
    name = next(name for name in _GENERATORS if hasattr(checkpoint, name))
    reentrant, other = checkpoint.CheckpointFunction.forward, getattr(checkpoint, name)

    @wraps(reentrant)
    def forward(ctx: Any, function: Function, *arguments: Any) -> Any:
        return reentrant(ctx, _under_the_settings_of_now(function), *arguments)

    @wraps(other)
    def generator(function: Function, *arguments: Any, **keywords: Any) -> Any:
        return other(_under_the_settings_of_now(function), *arguments, **keywords)

    checkpoint.CheckpointFunction.forward = staticmethod(forward)  # type: ignore[method-assign]
    setattr(checkpoint, name, generator)


def _under_the_settings_of_now(function: Function) -> Function:
    backend, precision = settings.BACKEND, settings.PRECISION

    def with_settings(*arguments: Any, **keywords: Any) -> Any:
        with settings.backend(backend), settings.precision(precision):
            return function(*arguments, **keywords)

    return with_settings
