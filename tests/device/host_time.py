"""`bench --overhead`'s table of the families on a GPU, over the libcuda that is here: launches do nothing.

python tests/device/host_time.py
"""

from __future__ import annotations

import ctypes
import os
import sys

import room

ARCH = 90
EMULATOR = room.HERE.parent / "emulator"  # which has the CUDA runtime's calls on any libcuda
CSRC = room.HERE.parents[1] / "csrc"
FLAGS = ["-DCONVEXT_CPU_TENSORS", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


def main() -> int:
    """Prints the table, in a process that takes the fake libcuda for a GPU's."""
    if "FAKE_HOST_TIME" not in os.environ:
        environment = room.environment(room.build(), FAKE_HOST_TIME="1")
        os.execve(sys.executable, [sys.executable, __file__, *sys.argv[1:]], environment)
    import torch

    from convext.benchmarks.measuring import host_time
    from convext.choice import plugins, settings
    from convext.operators import forward

    def machine(t: torch.Tensor) -> tuple[str, int, str]:
        """CPU tensors lie on the GPU that is not there, but for ATen, which computes, and for the CUDA library."""
        return ("cuda", ARCH, "ieee") if settings.BACKEND.startswith("triton.") else ("cpu", 0, "ieee")

    plugins.load()
    forward.machine = machine
    load_cuda_library()
    torch.set_num_threads(1)
    return host_time.main("cpu")


def load_cuda_library() -> None:
    """csrc for CPU tensors, whose kernels go to the libcuda that is here; says so where it cannot be compiled."""
    sys.path.insert(0, str(EMULATOR))
    from gpu_emulator import cuda_device

    from convext.providers.cuda import native

    if reason := cuda_device.missing():
        print(f"without the CUDA kernels: {reason}")
        return
    ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
    native.load_host_build(cuda_device.build(CSRC, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
