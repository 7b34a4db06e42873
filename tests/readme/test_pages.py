"""What README and docs show runs: snippets, commands and their options, make's targets, links to files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from convext.__main__ import main

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SNIPPETS = {
    f"{name} {i}": snippet
    for name, page in PAGES.items()
    for i, snippet in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if ">>>" not in snippet  # tests/catalogue runs those, and what they print
}
COMMANDS = sorted(
    {
        (name, match.group(1), option)
        for name, page in PAGES.items()
        for match in re.finditer(r"convext (info|explain|check|bench|tune|show)\b([^\n`|#]*)", page.read_text())
        for option in [None, *re.findall(r"--[a-z-]+", match.group(2))]
    },
    key=str,
)

# What a reader brings along to several ranks; torch's "fake" process group sends nothing, so a process stands for all.
EIGHT_RANKS = """
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
model, x, target = torch.nn.Conv2d(64, 64, 3, groups=64), torch.randn(2, 64, 9, 9), torch.zeros(2, 64, 7, 7)
"""


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    """`causal_conv1d.install()` puts modules in the place of another package's."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "causal_conv1d":
            del sys.modules[name]


@pytest.fixture(scope="module")
def shared() -> dict[str, dict[str, object]]:
    """The names that a page has so far; those that a reader brings along."""
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, groups=64))
    layer = torch.nn.Conv2d(64, 64, 3)
    return {page: {"model": model, "layer": layer, "x": torch.randn(1, 64, 9, 9)} for page in PAGES}


def test_pages_are_found() -> None:
    assert len(SNIPPETS) >= 8
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs(name: str, shared: dict[str, dict[str, object]], capsys: pytest.CaptureFixture[str]) -> None:
    snippet = SNIPPETS[name]
    if "transformers" in snippet and find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    if 'backend("triton")' in snippet and not torch.cuda.is_available():
        shared[name.split()[0]]["x"] = torch.randn(1, 64, 5, 5)  # interpreted
    if "init_device_mesh" in snippet:
        command = [sys.executable, "-c", EIGHT_RANKS + snippet.replace('"cuda"', '"cpu"')]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    exec(compile(snippet, name, "exec"), shared[name.split()[0]])


@pytest.mark.parametrize(("page", "command", "option"), COMMANDS)
def test_a_command_and_its_option_exist(
    page: str, command: str, option: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert option is None or option in capsys.readouterr().out


def test_makes_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for page in PAGES.values() for t in re.findall(r"\bmake ([a-z-]+)\b(?=`|\s+#|  )", page.read_text())}
    assert {"test", "bench"} <= named <= targets


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    page = PAGES[name]
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    links += re.findall(r"```\{image\} (\S+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
