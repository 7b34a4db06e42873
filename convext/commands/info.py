"""What convext finds on this machine: versions, GPUs, what is built, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
from importlib import metadata

import torch

import convext
from convext.choice import gpu_table, registry, settings
from convext.commands import arguments, kernel_table

# What each optional package is for, and how to get it.
_OPTIONAL = {
    "triton": ("the Triton kernels", "pip install triton"),
    "rich": ("the benchmark's tables", "pip install 'convext[bench]'"),
    "matplotlib": ("pictures", "pip install 'convext[plots]'"),
    "torchvision": ("whole networks in the benchmark", "pip install torchvision"),
    "timm": ("whole networks in the benchmark", "pip install timm"),
}


def report() -> str:
    """The text that `python -m convext info` prints."""
    lines = [
        f"convext  {convext.__version__}",
        f"python   {platform.python_version()} ({sys.executable})",
        f"torch    {torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {_cudnn()}",
        *_gpus(),
        f"measured {measured()}",
        f"cuda     {_native()}",
        f"cpu      {_cpu()}",
        f"backend  {settings.BACKEND} (CONVEXT_BACKEND={os.environ.get('CONVEXT_BACKEND', 'unset')})",
        "kernels  " + ", ".join(kernel.name for kernel in registry.kernels()),
    ]
    for package, (purpose, remedy) in _OPTIONAL.items():
        lines.append(f"{package:<8} {_version(package) or f'missing, wanted for {purpose}: {remedy}'}")
    return "\n".join(lines)


def _cudnn() -> str:
    return str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else "none"


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return [f"gpu      none: {arguments.why_no_cuda()}; everything computes on the CPU"]
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"gpu {i}    {p.name}, sm_{p.major}{p.minor}, {p.total_memory >> 30} GiB" for i, p in enumerate(properties)]


def measured() -> str:
    """Whether this machine's kind of GPU was ever measured, and in which file that stands."""
    if not torch.cuda.is_available():
        return "no GPU here"
    arch = registry.arch(torch.device("cuda", torch.cuda.current_device()))
    path, where = gpu_table.path_of(arch), gpu_table.measured_on(arch)
    if where is None:
        return f"never: there is no {path.name} in {path.parent}, and 'auto' goes by models (python -m convext tune)"
    return f"{path}: " + ", ".join(f"{name} {value}" for name, value in where.items())


def _native() -> str:
    native = importlib.import_module("convext.providers.cuda.native")
    reason = native.unavailable()
    if reason is None:
        return "the CUDA C++ kernels are loaded"
    compiler = shutil.which("nvcc")
    return f"no CUDA C++ kernels: {reason}" + (f" (nvcc is at {compiler})" if compiler else "")


def _cpu() -> str:
    library = importlib.import_module("convext.providers.cpu.library")
    reason = library.unavailable()
    return f"no CPU kernels: {reason}" if reason else f"the CPU kernels are loaded, {library.isa()}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the one option of `info`."""
    parser.add_argument("--kernels", action="store_true", help="print the table of kernels of the README instead")


def main(args: argparse.Namespace) -> int:
    """Prints the report, or the table of kernels."""
    print(kernel_table.markdown() if args.kernels else report())
    return 0
