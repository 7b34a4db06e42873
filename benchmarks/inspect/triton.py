"""Compiles a specimen for an architecture that need not be here, and tells which source it came from.

The fingerprint of a specimen is a hash of what Triton's front end makes of the kernel, its helpers, its constants and
its arguments' types (the "TTIR", with helpers inlined), of the launch, and of how its outputs are counted. That takes a
tenth of a second, compiling takes up to ten: rows whose fingerprint is the committed one need not be compiled to be
true.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from convext.benchmarks.inspect.sass import Figures, figures_of_cubin, tool

if TYPE_CHECKING:
    from triton.compiler import ASTSource

    from convext.triton_kernels.launch import Launch, Specimen


def signature(launch: Launch) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """(types, constants, divisibility) of a launch's arguments, specialised as Triton does when it launches."""
    from triton.runtime.jit import mangle_type

    constants: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], Any] = {}

    parameters = launch.kernel.params  # type: ignore[attr-defined]

    def type_of(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(type_of(element, (*path, i)) for i, element in enumerate(value))
        alone = parameters[path[0]] if len(path) == 1 else None  # of what is in tuples Triton asks nothing else
        if value is None or (isinstance(value, int) and value == 1 and not (alone and alone.do_not_specialize)):
            constants[path] = value
            return "constexpr"
        unhinted = alone and (alone.do_not_specialize or alone.do_not_specialize_on_alignment)
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0 and not unhinted):
            hints[path] = [["tt.divisibility", 16]]
        return mangle_type(value)

    names = launch.kernel.arg_names  # type: ignore[attr-defined]
    types = {name: type_of(value, (i,)) for i, (name, value) in enumerate(zip(names, launch.arguments, strict=False))}
    for name, value in launch.constants.items():
        types[name] = "constexpr"
        constants[(names.index(name),)] = value
    return {name: types[name] for name in names}, constants, hints


def _source(launch: Launch) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton compiles, and with which options."""
    from triton.compiler import ASTSource

    types, constants, hints = signature(launch)
    source = ASTSource(launch.kernel, signature=types, constexprs=constants, attrs=hints)
    return source, {"num_warps": launch.warps, "num_stages": launch.stages}


def fingerprint(specimen: Specimen, arch: int) -> str:
    """16 hexadecimal digits that change with whatever the figures of a specimen depend on, but for the compiler."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget, Language
    from triton.compiler.compiler import make_backend

    source, given = _source(specimen.launch)
    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    options = backend.parse_options(dict(given))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = source.make_ir(
        target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context
    )
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, Language.TRITON)
    module = stages["ttir"](module, {})
    counted = specimen.outputs, specimen.trips, specimen.filling
    parts = (module.str_nodebug(), arch, given, counted)  # without source lines: comments may come and go
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def inspect(specimen: Specimen, arch: int) -> Figures:
    """Compiles a specimen for compute capability `arch` / 10, and reads what became of it."""
    import triton
    from triton.backends.compiler import GPUTarget

    source, options = _source(specimen.launch)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    # A producer warp beside the kernel's own, where the compiler adds one, waits most of the time.
    found = figures_of_cubin(
        compiled.asm["cubin"], 32 * specimen.launch.warps, specimen.outputs, specimen.trips, specimen.filling,
        compiled.metadata.shared,
    )  # fmt: skip
    return replace(found, warnings=_warnings(compiled.asm["ptx"], arch))


def _warnings(ptx: str, arch: int) -> tuple[str, ...]:
    """The codes of ptxas' C75xx remarks: it serialised asynchronous tensor-core instructions."""
    if "wgmma" not in ptx and "tcgen05" not in ptx:
        return ()
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        ptxas = tool("ptxas-blackwell" if arch >= 100 else "ptxas")
        command = [ptxas, "-v", f"--gpu-name={target[1]}", file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(sorted(set(re.findall(r"C75\d\d", said.stdout + said.stderr))))
