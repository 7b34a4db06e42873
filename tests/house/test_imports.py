"""Imports go one way, and `import convext` stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import convext

PACKAGE = Path(convext.__file__).parent
KERNELS = Path(__file__).parents[2] / "triton_kernels"

SPINE = ["problem", "registry", "ops", "functional", "nn"]  # each may import those before it


def imported(path: Path, toplevel_only: bool = False) -> set[str]:
    """Modules that a file imports, in full; names from a package count as its modules."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if toplevel_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", SPINE)
def test_the_spine_imports_downwards(module):
    above = {f"convext.{name}" for name in SPINE[SPINE.index(module) + 1 :]}
    assert not imported(PACKAGE / f"{module}.py") & above


FOUNDATION = {
    "symbols": set(),
    "problem": {"symbols"},
    "layout": {"symbols"},
    "reference": {"problem"},
    "aten": {"problem", "layout"},
}


@pytest.mark.parametrize("module", FOUNDATION)
def test_the_foundation_knows_no_policy(module):
    allowed = FOUNDATION[module]
    ours = {name.split(".")[1] for name in imported(PACKAGE / f"{module}.py") if name.startswith("convext.")}
    assert ours <= allowed


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_kernels_know_the_problem_and_their_tiles_only(path):
    """No registry, no settings, no operator: a kernel is handed everything that it needs."""
    ours = {name for name in imported(path) if name.startswith("convext.")}
    policy = {name for name in ours if name.split(".")[1] not in ("problem", "layout", "triton_kernels")}
    assert not policy


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_optional_packages_are_imported_at_first_use(path):
    heavy = {"triton", "rich", "matplotlib", "torchvision", "numpy"}
    assert not {name.partition(".")[0] for name in imported(path, toplevel_only=True)} & heavy


def test_one_file_touches_torch_library():
    users = [path.name for path in PACKAGE.glob("*.py") if "torch.library" in path.read_text()]
    assert "ops.py" in users
    definers = [path.name for path in PACKAGE.glob("*.py") if "torch.library.Library(" in path.read_text()]
    assert definers == ["ops.py"]


def python(code: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("CC", "CXX", "TRITON_INTERPRET")}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PATH": "/nowhere"},
    )


def test_without_triton_and_without_a_compiler():
    code = """
import sys

class NoTriton:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTriton())
import torch
import convext
y = convext.Conv2d(3, 4, 3)(torch.randn(1, 3, 5, 5))
with convext.backend("aten"):
    convext.ConvTranspose2d(3, 4, 3)(torch.randn(1, 3, 5, 5)).sum().backward()
assert "triton" not in sys.modules
print(tuple(y.shape))
"""
    run = python(code)
    assert run.stdout.strip() == "(1, 4, 3, 3)", run.stderr


def test_nothing_heavy_is_imported():
    heavy = {"triton", "rich", "matplotlib", "torch._dynamo", "torchvision", "torch.utils.flop_counter"}
    code = "import sys, torch; before = set(sys.modules); import convext; print(*set(sys.modules) - before)"
    assert not set(python(code).stdout.split()) & heavy


def test_the_import_is_quick():
    """Under 0.3 s beyond torch's own import: the quickest of five, each in a fresh interpreter."""
    code = "import time, torch; start = time.perf_counter(); import convext; print(time.perf_counter() - start)"
    seconds = []
    while len(seconds) < 5 and not (seconds and min(seconds) < 0.3):
        seconds.append(float(python(code).stdout))
    assert min(seconds) < 0.3
