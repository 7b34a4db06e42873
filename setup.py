"""Builds the compiled libraries: csrc/**/*.cu -> convext/_C.abi3.so, csrc/cpu/*/*.cpp -> convext/_cpu.abi3.so.

Metadata lives in pyproject.toml. Both need torch's headers at build time: those of the torch that is there, else pip
fetches one. The first needs nvcc, and no GPU, the second a C++ compiler. Without them the install goes on, and says
what is missing; CONVEXT_CUDA=1 makes that an error for the CUDA library. MAX_JOBS limits the compilers that run at
once, and CONVEXT_ARCHS="90a" builds the CUDA library for these architectures alone: half the time, for the GPU that
is here.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from itertools import product
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")  # a build runs in the folder of this file, and setuptools wants relative sources
TORCH_TARGET_VERSION = "0x020a000000000000"  # the stable ABI of torch 2.10: loads on every newer one
ARCHITECTURES = "80 90a 100"  # machine code; newer GPUs compile the PTX of the last one
JOB_GIB = 3  # memory of one compiler
NO_TORCH = "torch is missing, whose headers they include: pip install torch"

# The CPU kernels are compiled once for each of these: its flags, and the bytes of a vector. 16 bytes are any machine's.
PLAIN = {"generic": ([], 16)}
X86 = {
    **PLAIN,
    "avx2": (["-mavx2", "-mfma"], 32),
    "avx512": (["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"], 64),
}
KERNEL_FLAGS = ["-O3", "-ffp-contract=fast", "-fno-exceptions", "-fno-rtti", "-Wno-psabi"]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def find_cxx() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def find_torch() -> Path | None:
    """torch's folder, without importing it. Where pip builds in isolation, that of the environment it builds for."""
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    spec = importlib.util.find_spec("torch") or PathFinder.find_spec("torch", installed)
    return Path(spec.origin).parent if spec and spec.origin else None


def missing() -> str | None:
    if find_nvcc() is None:
        return "nvcc was not found: install the CUDA toolkit, or set CUDA_HOME to where it is"
    if find_torch() is None:
        return NO_TORCH
    return None


def cpu_missing() -> str | None:
    if find_cxx() is None:
        return "no C++ compiler was found: install g++ or clang, or set CXX"
    if find_torch() is None:
        return NO_TORCH
    return None


def jobs() -> int:
    """As many compilers as processors and free memory allow."""
    if "MAX_JOBS" in os.environ:
        return int(os.environ["MAX_JOBS"])
    free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(os.cpu_count() or 1, int(free_gib / JOB_GIB)))


class BuildLibraries(build_ext):
    """Links against torch's stable ABI; nothing in the libraries depends on Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".abi3.so"

    def build_extension(self, ext: Extension) -> None:
        if ext.name == CUDA.name:
            return self.build_cuda(ext)
        try:
            self.build_cpu(ext)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"convext is installed without its CPU kernels: {error}")

    def build_cpu(self, ext: Extension) -> None:
        cxx, torch = find_cxx(), find_torch()
        target, objects = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp) / "convext_cpu"
        for folder in (target.parent, objects):
            folder.mkdir(parents=True, exist_ok=True)
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        common = [cxx, "-std=c++17", "-fPIC", "-fvisibility=hidden", f"-I{CSRC}"]
        library = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch}/include", "-O2"]
        library += ["-DCONVEXT_X86"] if x86 else []
        rooms = sorted(folder for folder in (CSRC / "cpu").iterdir() if (folder / "kernels.cpp").exists())
        commands = {objects / f"{room.name}.o": [*common, *library, "-c", room / "library.cpp"] for room in rooms}
        kernels = [source for room in rooms for source in sorted(room.glob("*.cpp")) if source.name != "library.cpp"]
        kernels.sort(key=lambda source: source.stem == "kernels")  # the faces' others take longest: they begin
        for source, (isa, (flags, width)) in product(kernels, (X86 if x86 else PLAIN).items()):
            described = [f"-DCONVEXT_ISA={isa}", f"-DCONVEXT_VECTOR_BYTES={width}"]
            compiled = [*KERNEL_FLAGS, *flags, *described, "-c", source]
            commands[objects / f"{source.parent.name}_{source.stem}_{isa}.o"] = [*common, *compiled]
        newest = max(source.stat().st_mtime for source in (CSRC / "cpu").rglob("*"))
        outdated = [out for out in commands if not out.exists() or out.stat().st_mtime < newest]
        with ThreadPoolExecutor(jobs()) as pool:
            list(pool.map(lambda out: subprocess.run([*commands[out], "-o", out], check=True), outdated))
        subprocess.run([*common, "-shared", *commands, "-o", target, f"-L{torch}/lib", "-ltorch_cpu"], check=True)

    def build_cuda(self, ext: Extension) -> None:
        if reason:
            raise SystemExit(f"CONVEXT_CUDA=1, but the CUDA kernels cannot be built: {reason}")
        nvcc, torch = find_nvcc(), find_torch()
        architectures = (os.environ.get("CONVEXT_ARCHS") or ARCHITECTURES).split()
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp, "convext", "-".join(architectures))  # what is built for others is not these
        for folder in (target.parent, objects):
            folder.mkdir(parents=True, exist_ok=True)
        headers = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh") and "cpu" not in path.parts]
        newest_header = max(header.stat().st_mtime for header in headers)
        code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        code.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
        code.append(f"--threads={max(1, jobs() // len(ext.sources))}")  # architectures of one file that compile at once

        def compile_source(source: str) -> Path:
            result = objects / ("-".join(Path(source).relative_to(CSRC).with_suffix(".o").parts))
            newest = max(newest_header, Path(source).stat().st_mtime)
            if not result.exists() or result.stat().st_mtime < newest:
                flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden"]
                flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch}/include", f"-I{CSRC}", *code]
                subprocess.run([nvcc, *flags, "-c", source, "-o", result], check=True)
            return result

        with ThreadPoolExecutor(jobs()) as pool:
            compiled = list(pool.map(compile_source, ext.sources))
        subprocess.run([nvcc, "-shared", *compiled, "-o", target, f"-L{torch}/lib", "-ltorch_cpu"], check=True)


CUDA = Extension("convext._C", sorted(map(str, CSRC.rglob("*.cu"))))
CPU = Extension("convext._cpu", sorted(map(str, (CSRC / "cpu").rglob("*.cpp"))), optional=True)

reason, cpu_reason = missing(), cpu_missing()
cuda_is_asked_for = os.environ.get("CONVEXT_CUDA") == "1"
if reason:
    print(f"convext is installed without its CUDA kernels: {reason}")
if cpu_reason:
    print(f"convext is installed without its CPU kernels: {cpu_reason}")


def packages() -> dict[str, str]:
    """Each package and its folder.

    `triton_kernels` and `benchmarks` keep their short names in the repository. Installed, they lie inside convext:
    Triton's own repository ships a top-level package called triton_kernels, which would clash.
    """
    roots = {"convext": "convext", "convext.triton_kernels": "triton_kernels", "convext.benchmarks": "benchmarks"}
    return {
        ".".join([name, *init.parent.relative_to(root).parts]): str(init.parent)
        for name, root in roots.items()
        for init in Path(root).rglob("__init__.py")
    }


setup(
    packages=sorted(packages()),
    package_dir=packages(),
    ext_modules=[*([CUDA] if cuda_is_asked_for or not reason else []), *([] if cpu_reason else [CPU])],
    setup_requires=["torch>=2.11"] if NO_TORCH in (reason, cpu_reason) else [],
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
