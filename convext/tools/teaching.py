"""Tools that know torch.nn's layers or torch's operators one by one, and have a place to teach them ours.

    thop, ptflops                      tables of counters by type: ours get the entries of torch.nn's
    torch.ao.quantization              table of fusions by types: ours are fused as torch.nn's are, and stay ours
    torch.fx.experimental.optimization one function that compares types: it is shown torch.nn's
    torch.onnx                         a function that makes a table of decompositions: it has our operators' too
    torch.distributed.tensor           rules by operator: ours have theirs
    torch.utils.flop_counter           formulas by operator: ours have theirs

None of them is imported here: each is taught when somebody else imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from convext.nn import OURS, TORCHS
from convext.tools import flops


@cache
def install() -> None:
    """Teaches each tool, once: now or when it is imported."""
    for name, teach in _TOOLS.items():
        if name in sys.modules:
            teach(sys.modules[name])
        else:
            sys.meta_path.insert(0, _Import(name, teach))


def _counters(table: str) -> Callable[[ModuleType], None]:
    """Gives our layers the entries of torch.nn's in the module's table, a dict by type."""

    def teach(module: ModuleType) -> None:
        entries = getattr(module, table, {})
        entries.update({ours: entries[torchs] for torchs, ours in OURS.items() if torchs in entries})

    return teach


def _eager_fusion(module: ModuleType) -> None:
    """Fusions of (convolution, norm, ReLU): computed by torch on torch.nn's layer, whose class then comes back."""
    table: dict[tuple[Any, ...], Any] = getattr(module, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})

    def fuser(fuse: Any) -> Any:
        def fuse_ours(is_qat: bool, conv: torch.nn.Module, *rest: torch.nn.Module) -> torch.nn.Module:
            ours = type(conv)
            conv.__class__ = TORCHS[ours]
            try:
                fused: torch.nn.Module = fuse(is_qat, conv, *rest)
            finally:
                conv.__class__ = ours
            for part in fused.modules():
                if type(part) is TORCHS[ours]:
                    part.__class__ = ours
            return fused

        return fuse_ours

    table.update({(OURS[types[0]], *types[1:]): fuser(fuse) for types, fuse in table.items() if types[0] in OURS})


def _graph_fusion(module: ModuleType) -> None:
    """`fuse` of torch.fx: asks for exact types, of a dict of modules that it looks nothing else up in."""
    matches = module.matches_module_pattern

    def matches_ours(pattern: Any, node: Any, modules: dict[str, torch.nn.Module]) -> bool:
        near = [n.target for n in (*node.args[:1], node) if getattr(n, "op", "") == "call_module"]
        shown = {name: modules[name] for name in near if name in modules}
        torchs = {name: object.__new__(TORCHS[type(m)]) for name, m in shown.items() if type(m) in TORCHS}
        return bool(matches(pattern, node, {**shown, **torchs}))

    module.matches_module_pattern = matches_ours  # type: ignore[attr-defined]


def _onnx(module: ModuleType) -> None:
    """The table by which `torch.onnx.export(dynamo=True)` takes operators apart that it has no translation for."""
    make = getattr(module, "create_onnx_friendly_decomposition_table", None)
    if make is None:
        return

    def make_with_ours(*arguments: Any, **keywords: Any) -> Any:
        from convext.tools import decompositions

        return {**make(*arguments, **keywords), **decompositions.TABLE}

    module.create_onnx_friendly_decomposition_table = make_with_ours  # type: ignore[attr-defined]


def _flop_counter(module: ModuleType) -> None:
    """Formulas by operator."""
    flops.register()


def _dtensor(module: ModuleType) -> None:
    """Rules by operator: how its operands and results may be sharded."""
    from convext.tools import sharding

    sharding.register()


_TOOLS: dict[str, Callable[[ModuleType], None]] = {
    "thop.profile": _counters("register_hooks"),
    "ptflops.pytorch_ops": _counters("MODULES_MAPPING"),
    "torch.ao.quantization.fuser_method_mappings": _eager_fusion,
    "torch.fx.experimental.optimization": _graph_fusion,
    "torch.onnx._internal.exporter._decomp": _onnx,
    "torch.distributed.tensor": _dtensor,
    "torch.utils.flop_counter": _flop_counter,
}


class _Import:
    """On `sys.meta_path` until the module `name` is imported: runs `teach` after the module itself."""

    def __init__(self, name: str, teach: Callable[[ModuleType], None]) -> None:
        self.name, self.teach = name, teach

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_teach(module: ModuleType) -> None:
                run(module)
                self.teach(module)

            spec.loader.exec_module = run_and_teach  # type: ignore[method-assign]
        return spec
