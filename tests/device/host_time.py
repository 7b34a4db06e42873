"""`bench --overhead`'s table of the Triton families, over the libcuda that is here: launches do nothing.

python tests/device/host_time.py
"""

from __future__ import annotations

import os
import sys

import room

ARCH = 90


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
        """CPU tensors lie on the GPU that is not there, but for ATen, which computes."""
        return ("cpu", 0, "ieee") if settings.BACKEND == "aten" else ("cuda", ARCH, "ieee")

    plugins.load()
    forward._machine = machine
    torch.set_num_threads(1)
    return host_time.main("cpu")


if __name__ == "__main__":
    sys.exit(main())
