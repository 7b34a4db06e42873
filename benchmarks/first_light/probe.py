"""Says what the steps of first_light.sh need and this machine has, and what goes without it. Needs nothing itself.

python3 -m benchmarks.first_light.probe    in the repository's root
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    found = (os.environ.get("CC"), "gcc", "clang", "cc")
    return next((path for name in found if name and (path := shutil.which(name))), None)


def _header() -> str | None:
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    return next((str(path) for folder in folders if folder and (path := Path(folder, "Python.h")).exists()), None)


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def _gpu() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory >> 30} GiB"


def found() -> dict[str, tuple[str | None, str]]:
    """What there is by name, or None, and what goes without it."""
    return {
        "torch": (_version("torch"), "nothing runs"),
        "GPU": (_gpu(), "the CPU paths are measured, and no kernel of a GPU is checked"),
        "triton": (_version("triton"), "no triton.* kernel runs"),
        "C compiler": (_compiler(), "no triton.* kernel runs: Triton compiles a launcher in C for each; CC names one"),
        "Python.h": (_header(), "no triton.* kernel runs: their launchers include it (package python3-dev)"),
        "nvcc": (_nvcc(), "no cuda.* kernel is built: CUDA_HOME says where the toolkit is"),
        "setuptools": (_version("setuptools"), "no cuda.* kernel is built: setup.py needs it; any version will do"),
        "hypothesis": (_version("hypothesis"), "no tests: their conftest.py imports it"),
        "pytest-xdist": (_version("pytest-xdist"), "no tests: eight processes share them"),
        "matplotlib": (
            _version("matplotlib"),
            "no page: `bench --report` makes it from the results later",
        ),
        "rich": (_version("rich"), "tables without colours"),
    }


def main() -> int:
    """Prints a line for each need; returns 0: what is missing costs its own steps alone."""
    print(f"{platform.platform()}, Python {platform.python_version()} at {sys.executable}, {os.cpu_count()} cores")
    for name, (what, without) in found().items():
        print(f"{name}: {what or f'missing, and without it: {without}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
