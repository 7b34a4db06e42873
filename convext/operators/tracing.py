"""What torch.jit.trace records of the operators. What it records of a layer is in `traced.py`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from convext.operators.schema import LIBRARY
from convext.problem import FACES


def _record(name: str, *arguments: Any) -> Any:
    """torch.jit.trace records lists of integers, not of SymInts: it gets a twin of the operator that has those."""
    return getattr(torch.ops.convext, name).ints(*arguments)


for _name in (*FACES, "dgrad_wgrad"):
    _default = getattr(torch.ops.convext, _name).default
    LIBRARY.define(str(_default._schema).removeprefix("convext::").replace("SymInt", "int").replace("(", ".ints(", 1))
    LIBRARY.impl(f"{_name}.ints", _default, "CompositeImplicitAutograd")
    LIBRARY.impl(_name, partial(_record, _name), "Tracer")
