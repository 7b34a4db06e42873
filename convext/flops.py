"""The operators' FLOPs, for torch.utils.flop_counter.

That module imports Triton, so we do not import it: a hook gives it our formulas when somebody else does. Later would be
too late, for a counter copies the formulas when it is made.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from convext.problem import FACES, OPEN, OPERANDS, Face, Ints

_COUNTER = "torch.utils.flop_counter"


def install() -> None:
    """Registers the formulas with torch's counter, now or when it is imported."""
    if _COUNTER in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _CounterImport())


def _flops(face: Face, a: Ints, b: Ints, *args: Any, out_shape: Ints, **kwargs: Any) -> int:
    """2 * N * prod(O) * prod(shape of w): the terms of the form, for each face."""
    shape = dict(zip((*OPERANDS[face], OPEN[face]), (a, b, out_shape), strict=True))
    return 2 * math.prod(shape["w"]) * shape["y"][0] * math.prod(shape["y"][2:])


def _flops_of_both(y: Ints, w: Ints, x: Ints, *args: Any, **kwargs: Any) -> int:
    """Those of dgrad and of wgrad."""
    return _flops("dgrad", y, w, out_shape=x) + _flops("wgrad", x, y, out_shape=w)


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for face in FACES:
        register_flop_formula(getattr(torch.ops.convext, face))(partial(_flops, face))
    register_flop_formula(torch.ops.convext.dgrad_wgrad)(_flops_of_both)


class _CounterImport:
    """On `sys.meta_path` until the counter is imported: runs `_register` after the module itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
