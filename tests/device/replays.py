"""Calls layers again and again, and once with a launch hook: is what is launched from memory what was launched first?

python tests/device/replays.py        prints a JSON line for each layer
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from triton import knobs

import convext
from convext.benchmarks.measuring import host_time
from convext.choice import plugins
from convext.operators import forward

CASES = ("triton.stencil", "NCHW"), ("triton.banded", "NHWC"), ("triton.grouped", "NHWC")  # copies; the last by TMA


def main() -> int:
    plugins.load()
    forward.machine = lambda t: ("cuda", 90, "ieee")  # CPU tensors lie on the GPU that is not there
    torch.set_num_threads(1)
    log, seen = Path(os.environ["FAKE_CUDA_LOG"]), []

    def hook(metadata) -> None:  # type: ignore[no-untyped-def]
        seen.append(metadata.get()["name"])

    for backend, memory_format, paths in host_time.calls("cpu"):
        if (backend, memory_format) not in CASES:
            continue
        call, lines = paths["forward and backward"], []
        log.write_text("")
        paths["forward"]()
        forward_launches = len(log.read_text().splitlines())
        for hooked in (False, False, True, False):
            if hooked:
                knobs.runtime.launch_enter_hook.add(hook)
            log.write_text("")
            seen.clear()
            call()
            lines.append({"launches": [json.loads(line) for line in log.read_text().splitlines()], "seen": [*seen]})
            if hooked:
                knobs.runtime.launch_enter_hook.remove(hook)
        print(json.dumps({"name": f"{backend} {memory_format}", "calls": lines, "forward": forward_launches}))
    tensor_maps(log, hook)
    return 0


def tensor_maps(log: Path, hook: Callable[[object], None]) -> None:
    """A layer that reads its image by TMA, on two images by turns: at Triton's own launches, and at ours."""
    layer = convext.Conv2d(32, 32, 3, padding=1, groups=8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    images = [torch.randn(1, 8, 8, 32, dtype=torch.bfloat16).permute(0, 3, 1, 2) for _ in range(2)]
    lines = []
    with convext.backend("triton.grouped"), torch.no_grad():
        layer(images[0])
        for hooked in (True, False, False):
            if hooked:
                knobs.runtime.launch_enter_hook.add(hook)
            for x in images:
                log.write_text("")
                layer(x)
                lines += [json.loads(line) for line in log.read_text().splitlines()]
            if hooked:
                knobs.runtime.launch_enter_hook.remove(hook)
    print(json.dumps({"name": "tensor maps", "launches": lines}))


if __name__ == "__main__":
    sys.exit(main())
