"""What is built, packed and installed: every folder is found, though none is named in a list."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="setup.py needs setuptools in this environment")

ROOT = Path(__file__).parents[2]
ROOMS = {"convext": "convext", "triton_kernels": "convext/triton_kernels", "benchmarks": "convext/benchmarks"}
# Neither nvcc nor a C++ compiler is found: what is tried here is what setup.py collects, and that it goes on without.
NO_COMPILER = {"PATH": "/nonexistent", "CUDA_HOME": "/nonexistent"}


def files(folder: Path, *patterns: str) -> set[str]:
    """Paths in `folder` that fit a pattern, without what running the sources leaves there."""
    found = {path.relative_to(folder) for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    return {str(path) for path in found if "__pycache__" not in path.parts and path.suffix != ".so"}


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked source distribution."""
    copy = tmp_path_factory.mktemp("copy") / "convext"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "out", "*.so", "*.egg-info", ".*_cache"),
    )
    run(sys.executable, "setup.py", "-q", "sdist", cwd=copy, **NO_COMPILER)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed that the source distribution builds."""
    run(sys.executable, "setup.py", "-q", "bdist_wheel", cwd=source, **NO_COMPILER)
    (wheel,) = (source / "dist").glob("*.whl")
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.mark.parametrize("room", ["csrc", "tests", "docs", "examples", "benchmarks", "triton_kernels", "convext"])
def test_a_source_distribution_has_everything(source: Path, room: str) -> None:
    expected = files(ROOT / room, "*")
    assert expected
    assert files(source / room, "*") == expected
    for name in ("Makefile", "requirements.txt", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", ".ci/run"):
        assert (source / name).exists()


def test_a_wheel_has_every_module_and_table(site: Path) -> None:
    """And none of what lies in the repository beside them."""
    tables = {"convext/choice/tables", "convext/benchmarks/cases/tables", "convext/benchmarks/results"}
    found = files(site / "convext", "*.py", "py.typed")
    for room, installed in ROOMS.items():
        inside = installed.partition("/")[2]
        expected = {os.path.join(inside, name) for name in files(ROOT / room, "*.py", "py.typed")}
        assert len(expected) > 20
        assert expected <= found
    assert all(list((site / folder).glob("*.json")) for folder in tables)
    assert not [name for name in files(site, "*") if name.endswith((".cu", ".cuh", ".sh", ".md"))]


EVERY_MODULE = """
import importlib, pkgutil, convext
names = [m.name for m in pkgutil.walk_packages(convext.__path__, "convext.")]
names = [name for name in names if not name.endswith("__main__") and "pytest_" not in name]
for name in names:
    importlib.import_module(name)
print(convext.__file__, len(names))
"""


def test_what_is_installed_runs(site: Path, tmp_path: Path) -> None:
    path, count = run(sys.executable, "-c", EVERY_MODULE, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(path) == site / "convext" / "__init__.py"
    assert int(count) > 100
    told = run(sys.executable, "-m", "convext", "info", cwd=tmp_path, PYTHONPATH=str(site))
    assert "the CUDA kernels were not built" in told
    assert "no CPU kernels" in told


def test_no_two_modules_of_the_tests_have_one_name() -> None:
    """pytest imports each by its name alone, from its own folder; the emulator's are a process of their own."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if "emulator" not in path.parts]
    assert len(names) > 80
    assert {name for name in names if names.count(name) > 1} == {"conftest.py"}


# ---------------------------------------------------------------------------------------------- what is compiled

COLLECTED = """
import json, runpy, setuptools
setuptools.setup = lambda **given: print("=" + json.dumps({e.name: e.sources for e in given["ext_modules"]}))
runpy.run_path("setup.py")
"""


def test_setup_compiles_every_source() -> None:
    folder = ROOT / "csrc"
    expected = {"convext._C": {f"csrc/{name}" for name in files(folder, "*.cu")}}
    expected["convext._cpu"] = {f"csrc/{name}" for name in files(folder, "*.cpp")}
    assert all(expected.values())
    told = run(sys.executable, "-c", COLLECTED, cwd=ROOT)
    collected = {name: set(sources) for name, sources in json.loads(told.rpartition("=")[2]).items()}
    assert collected, "neither nvcc nor a C++ compiler is here"
    assert {name: expected[name] for name in collected} == collected


# As pip builds in isolation: what is installed is not on the path, only known to sysconfig.
ISOLATED = """
import json, os, runpy, sys, sysconfig, setuptools, setuptools.command.build_ext
sys.path = [folder for folder in sys.path if "-packages" not in folder]
sysconfig.get_path = lambda name: os.environ["INSTALLED"]
setuptools.setup = lambda **given: print(json.dumps(given["setup_requires"]))
runpy.run_path("setup.py")
"""


@pytest.mark.parametrize(
    ("torch_is_there", "compilers", "wanted"),
    [(True, {}, []), (False, {}, ["torch>=2.11"]), (False, NO_COMPILER, [])],
    ids=["torch", "no torch", "nothing to compile with"],
)
def test_an_isolated_build_has_torchs_headers(
    torch_is_there: bool, compilers: dict[str, str], wanted: list[str], tmp_path: Path
) -> None:
    """Without them nothing is compiled, and pip says nothing of it."""
    if torch_is_there:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").touch()
    told = run(sys.executable, "-c", ISOLATED, cwd=ROOT, INSTALLED=str(tmp_path), **compilers)
    assert json.loads(told.splitlines()[-1]) == wanted


def prerequisites(target: str) -> Iterable[str]:
    """What the Makefile's rule for `target` looks at."""
    asked = subprocess.run(["make", "-pqr", "clean"], cwd=ROOT, capture_output=True, text=True)
    rule = re.search(rf"^{re.escape(target)}:(.*)$", asked.stdout, re.MULTILINE)
    assert rule
    return rule[1].split()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("target", [".venv/installed", "build/installed"])
def test_make_builds_again_when_a_source_changes(target: str) -> None:
    sources = {f"csrc/{name}" for name in files(ROOT / "csrc", "*.cu", "*.cuh", "*.h", "*.cpp")}
    assert sources <= set(prerequisites(target))
