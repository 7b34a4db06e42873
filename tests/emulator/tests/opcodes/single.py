"""One warp that runs one piece of PTX: registers in, registers out."""

from __future__ import annotations

import numpy as np
from gpu_emulator.library import set_arch
from gpu_emulator.modules import Dim, Function

LETTER = {2: "h", 4: "r", 8: "d"}  # %h0, %r0, %d0, ...: registers of 16, 32 and 64 bits
HEAD = """
.version 8.7
.target {target}
.address_size 64
.extern .shared .align 128 .b8 memory[];
.visible .entry kernel({parameters}) {{
  .reg .pred %p<64>;
  .reg .b16 %h<64>;
  .reg .b32 %r<512>;
  .reg .b64 %d<64>;
  .reg .b64 %a<32>;
  .reg .b32 %t<8>;
"""


def program(body: str, parameters: str = "", target: str = "sm_90a") -> str:
    """The text of a module with one kernel, called kernel."""
    return HEAD.format(target=target, parameters=parameters) + body + "\n}\n"


def lanes(values: object, dtype: object) -> np.ndarray:
    """32 values, the given ones first, the rest the first again."""
    given = np.atleast_1d(np.asarray(values, dtype=dtype))
    return np.concatenate([given, np.full(32 - len(given), given[0], dtype)]) if len(given) < 32 else given


def run(
    body: str,
    inputs: tuple[np.ndarray, ...] = (),
    outputs: tuple[tuple[str, object], ...] = (),
    shared: int = 4096,
    threads: Dim = (32, 1, 1),
    target: str = "sm_90a",
) -> tuple[np.ndarray, ...]:
    """Runs `body` in one block.

    Args:
        body: statements. Before them input i is in %h<i>, %r<i> or %d<i>, by its size: an element a thread.
        inputs: arrays with an element for each thread.
        outputs: a register and a NumPy type each: what every thread has in the register at the end.
    """  # fmt: skip
    set_arch(120 if target == "sm_120a" else 90)
    count = int(np.prod(threads))
    results = tuple(np.zeros(count, dtype) for _, dtype in outputs)
    arrays = [*(np.ascontiguousarray(a) for a in inputs), *results]
    parameters = ", ".join(f".param .u64 p{i}" for i in range(len(arrays)))
    text = ["mov.u32 %t0, %tid.x;"]

    def address(i: int) -> str:
        text.append(f"ld.param.b64 %a0, [p{i}];")
        text.append(f"mad.wide.u32 %a0, %t0, {arrays[i].itemsize}, %a0;")
        return f".global.b{8 * arrays[i].itemsize}"

    for i, array in enumerate(inputs):
        space = address(i)
        text.append(f"ld{space} %{LETTER[array.itemsize]}{i}, [%a0];")
    text.append(body)
    for i, (register, _) in enumerate(outputs):
        space = address(len(inputs) + i)
        text.append(f"st{space} [%a0], {register};")
    text.append("ret;")
    Function(program("\n".join(text), parameters, target))(*arrays, threads=threads, shared=shared)
    return results


def result(body: str, inputs: tuple[np.ndarray, ...], register: str, dtype: object, **kwargs: object) -> np.ndarray:
    """The one output of `run`."""
    return run(body, inputs, ((register, dtype),), **kwargs)[0]  # type: ignore[arg-type]
