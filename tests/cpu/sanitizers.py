"""Compiling the kernels under AddressSanitizer and UBSan, and running them: in a process of its own, since the
sanitizer's allocator has to come first."""

from __future__ import annotations

import os
import subprocess
import sys

# AddressSanitizer finds what null and object-size would; the kernels step pointers back from rows that they do not
# read, keep no pointer to a local, and read vectors at any address. Checks are calls: else they would be most of the
# kernels' long functions, and most of the time that these take to compile, of which alignment alone is half.
SANITIZED = [
    "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
    "-fno-sanitize=pointer-overflow,null,object-size,alignment", "-fno-sanitize-address-use-after-scope",
    "--param", "asan-instrumentation-with-call-threshold=0",
]  # fmt: skip


def run_sanitized(arguments: list[str], path: str) -> None:
    """Runs Python with `arguments` and the folders of `path`; fails where a sanitizer or the process does."""

    def library(name: str) -> str:
        return subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()

    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "LD_PRELOAD": f"{library('libasan.so')}:{library('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
