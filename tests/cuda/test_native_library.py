"""The compiled library: what it depends on, where it loads, and what is said where it is not there."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convext.providers.cuda import native

ROOT = Path(__file__).parents[2]


@pytest.fixture
def library() -> Path:
    if not native.LIBRARY.exists():
        pytest.skip("the CUDA library is not built here: it needs nvcc")
    return native.LIBRARY


def undefined_symbols(library: Path) -> list[str]:
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    return [line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()]


def test_imports_the_stable_abi_alone(library: Path) -> None:
    """C functions of the stable ABI; nothing of Python, nothing of ATen's or c10's C++."""
    symbols = undefined_symbols(library)
    assert any(name.startswith("aoti_torch_") for name in symbols)
    assert [name for name in symbols if name.startswith(("Py", "_Py")) or "2at" in name or "3c10" in name] == []
    own = [name for name in symbols if "torch" in name]
    assert [name for name in own if not name.startswith(("aoti_torch_", "torch_"))] == []


def test_needs_no_cuda_library(library: Path) -> None:
    """It loads where torch has no CUDA: the runtime is inside, and streams are handed to it."""
    assert "aoti_torch_get_current_cuda_stream" not in undefined_symbols(library)
    assert native.unavailable("cuda") is None


def test_schemas_are_registered(library: Path) -> None:
    schema = str(native.operators("cuda").stencil.default._schema)
    assert schema.startswith(
        "convext_cuda::stencil(str face, Tensor a, Tensor b, Tensor? bias, Tensor? residual, Tensor result"
    )
    backward = str(native.operators("cuda").stencil_backward.default._schema)
    assert backward.startswith("convext_cuda::stencil_backward(Tensor a, Tensor b, Tensor x, Tensor dx, Tensor dw")
    assert backward.endswith("-> int")


def test_loads_on_the_other_torch(library: Path) -> None:
    """One binary for every torch: CONVEXT_OTHER_PYTHON names the Python of an environment with another one."""
    other = os.environ.get("CONVEXT_OTHER_PYTHON")
    if not other:
        pytest.skip("set CONVEXT_OTHER_PYTHON to the Python of an environment with another torch")
    use = f"torch.ops.load_library({str(library)!r}); torch.ops.convext_cuda.stencil"
    code = f"import torch; {use}; print(torch.__version__)"
    done = subprocess.run([other, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != torch.__version__


def test_other_devices_are_named() -> None:
    assert native.unavailable("meta") == "tensors are on meta; CUDA kernels run on cuda"


@pytest.mark.parametrize("content", [None, "not a library"])
def test_says_why_it_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content) -> None:
    library = tmp_path / "_C.abi3.so"
    if content:
        library.write_text(content)
    monkeypatch.setattr(native, "LIBRARY", library)
    native._load_failure.cache_clear()
    try:
        reason = native.unavailable("cuda")
        expected = "do not load: " if content else "were not built (_C.abi3.so is missing): with nvcc, CONVEXT_CUDA=1"
        assert expected in reason
        with pytest.raises(RuntimeError, match="CUDA kernels"):
            native.operators("cuda")
    finally:
        native._load_failure.cache_clear()


def install(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """setup.py on a copy of the sources, where no nvcc can be found."""
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "convext", "triton_kernels", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "setup.py", "build", "--build-base", tmp_path / "build"]
    variables = {**os.environ, "PATH": "/nonexistent", "CUDA_HOME": "/nonexistent", **environment}
    return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)


needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setup.py needs setuptools in this environment"
)


@needs_setuptools
def test_install_goes_on_without_nvcc(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "convext is installed without its CUDA kernels: nvcc was not found: install the CUDA toolkit" in done.stdout
    assert (tmp_path / "build" / "lib" / "convext" / "providers" / "cuda" / "native.py").exists()


@needs_setuptools
def test_install_fails_without_nvcc_where_cuda_was_asked_for(tmp_path: Path) -> None:
    done = install(tmp_path, CONVEXT_CUDA="1")
    assert done.returncode != 0
    assert "CONVEXT_CUDA=1, but the CUDA kernels cannot be built: nvcc was not found" in done.stderr
