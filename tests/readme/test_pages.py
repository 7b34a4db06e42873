"""What README and docs show runs: snippets, commands and their options, make's targets, links to files."""

from __future__ import annotations

import copy
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


class Reader:
    """Runs a page's snippets in their order, with the names that the page has so far and those that a reader brings."""

    def __init__(self) -> None:
        model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, groups=64))
        self.names: dict[str, object] = {
            "model": model,
            "layer": torch.nn.Conv2d(64, 64, 3),
            "x": torch.randn(1, 64, 9, 9),
        }
        self.ran: set[str] = set()

    def read_up_to(self, name: str) -> None:
        """Runs `name`, and what stands before it and was not run: by another process, where tests are shared out."""
        page = [each for each in SNIPPETS if each.split()[0] == name.split()[0]]
        for each in page[: page.index(name) + 1]:
            if each not in self.ran and not lacks_transformers(each):
                self.ran.add(each)
                self.run(each, SNIPPETS[each])

    def run(self, name: str, snippet: str) -> None:
        names = self.names
        if 'backend("triton")' in snippet:
            device = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU interpreted: a small image
            layer = copy.deepcopy(names["layer"]).to(device)  # type: ignore[attr-defined]
            names = {**names, "layer": layer, "x": torch.randn(1, 64, 5, 5, device=device)}
        if "init_device_mesh" in snippet:
            command = [sys.executable, "-c", EIGHT_RANKS + snippet.replace('"cuda"', '"cpu"')]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        else:
            exec(compile(snippet, name, "exec"), names)


def lacks_transformers(name: str) -> bool:
    return "transformers" in SNIPPETS[name] and find_spec("transformers") is None


@pytest.fixture(scope="module")
def readers() -> dict[str, Reader]:
    return {page: Reader() for page in PAGES}


def test_pages_are_found() -> None:
    assert len(SNIPPETS) >= 8
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs(name: str, readers: dict[str, Reader], capsys: pytest.CaptureFixture[str]) -> None:
    if lacks_transformers(name):
        pytest.skip("transformers is not installed")
    readers[name.split()[0]].read_up_to(name)


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
