"""Imports go one way, and `import convext` stays light."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import convext

ROOT = Path(__file__).parents[2]
ROOMS = {
    "convext": ROOT / "convext",
    "convext.triton_kernels": ROOT / "triton_kernels",
    "convext.benchmarks": ROOT / "benchmarks",
}
# Rooms as CONTRIBUTING.md draws them, the lowest floor last: a room imports from the floors below it alone.
PICTURE = re.search(r"```floors\n(.+?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
FLOORS = [line.split("#")[0].split() for line in PICTURE.strip().splitlines()][::-1]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
# At a call, not at an import: what a torch.jit.trace recorded runs a layer's function again, and the layer and the
# stand-in of causal convolutions call them by their public names.
UPWARDS = {("operators", "functional"), ("causal", "causal_conv1d")}


def modules() -> dict[str, Path]:
    """Every module of the package, under the name that it has when installed."""
    return {
        ".".join([name, *path.relative_to(folder).with_suffix("").parts]): path
        for name, folder in ROOMS.items()
        for path in sorted(folder.rglob("*.py"))
    }


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


def room(module: str) -> str:
    """The folder or file of the package in which a module is."""
    return module.split(".")[1] if "." in module else ""


def rooms_seen() -> set[tuple[str, str]]:
    """(a room, another one that it imports from), but for the package's front door, `convext` itself."""
    seen = {(room(module), room(name)) for module, path in modules().items() for name in imported(path)
            if name.startswith("convext.")}  # fmt: skip
    return {(a, b) for a, b in seen if a != b and a not in ("__init__", "__main__")}


def test_the_picture_of_the_floors_has_every_room():
    found = {room(module) for module in modules()} - {"__init__", "__main__"}
    assert len(modules()) > 100
    assert found == set(HEIGHT)


def test_imports_go_down():
    up = {(a, b) for a, b in rooms_seen() if b in HEIGHT and HEIGHT[b] >= HEIGHT[a]}
    assert up == UPWARDS
    at_import = {
        (room(module), room(name)) for module, path in modules().items() for name in imported(path, toplevel_only=True)
    }
    assert not UPWARDS & at_import


FOUNDATION = {
    "problem/symbols": set(),
    "problem/conv_problem": {"symbols"},
    "problem/layout": {"symbols"},
    "problem/reference": {"conv_problem"},
}


@pytest.mark.parametrize("module", FOUNDATION)
def test_the_foundation_is_a_stair_of_its_own(module):
    ours = {
        name.split(".")[2]
        for name in imported(ROOT / f"convext/{module}.py")
        if name.count(".") > 1 and name.startswith("convext.")
    }
    assert {name for name in ours if name.islower() and (ROOT / f"convext/problem/{name}.py").exists()} <= FOUNDATION[
        module
    ]


KERNELS = sorted((ROOT / "triton_kernels").rglob("*.py"))


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: f"{path.parent.stem}.{path.stem}")
def test_kernels_know_the_problem_and_their_tiles_only(path):
    """No registry, no settings, no operator: a kernel is handed everything that it needs."""
    ours = {name for name in imported(path) if name.startswith("convext.")}
    policy = {name for name in ours if room(name) not in ("problem", "replay", "triton_kernels")}
    assert not policy


@pytest.mark.parametrize("module", [m for m in modules() if room(m) not in ("benchmarks", "triton_kernels")])
def test_optional_packages_are_imported_at_first_use(module):
    heavy = {"triton", "rich", "matplotlib", "torchvision"}
    assert not {name.partition(".")[0] for name in imported(modules()[module], toplevel_only=True)} & heavy


def test_one_folder_touches_torch_library():
    users = {room(module) for module, path in modules().items() if "torch.library" in path.read_text()}
    assert users == {"operators", "causal"}


def python(code: str) -> subprocess.CompletedProcess:
    """An interpreter of its own, without a compiler, that keeps bytecode, as an installation has it."""
    left_out = ("CC", "CXX", "TRITON_INTERPRET", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
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
    """A fifteenth of torch's own at most, in processor time: the best of five, each in a fresh interpreter.

    Both from bytecode, which an installation holds of torch and of us: without it, our sources are compiled each time.
    """
    code = """
from time import process_time as now
begin = now()
import torch
middle = now()
import convext
print((now() - middle) / (middle - begin))
"""
    shares = []
    while len(shares) < 5 and not (shares and min(shares) < 1 / 15):
        shares.append(float(python(code).stdout))
    assert min(shares) < 1 / 15


@pytest.mark.parametrize("name", ["aten", "layout", "ops", "registry", "settings"])
def test_a_module_answers_to_its_former_name(name):
    """As a module and as an attribute; what it holds is one thing under both."""
    module = importlib.import_module(f"convext.{name}")
    assert getattr(convext, name) is module
    assert module.__name__ != f"convext.{name}"
    assert module is importlib.import_module(module.__name__)


def test_settings_under_their_former_name():
    import convext.settings as settings

    with convext.backend("aten"):
        assert settings.BACKEND == "aten"
