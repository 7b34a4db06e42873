"""Which test covers which line of the core, and how long it takes: one run of the suite under coverage.py.

As a pytest plugin (`-p covering`) it names coverage's contexts after the tests and writes down their durations.
"""

from __future__ import annotations

import ast
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

DURATIONS = "durations.json"
COVERED = "covered.sqlite"
RARE = 40  # tests that cover a line: so few are all worth running


class Recorder:
    """Records while the suite runs."""

    def __init__(self, folder: Path, root: Path) -> None:
        import coverage

        self.folder, self.durations = folder, dict[str, float]()
        self.coverage = coverage.Coverage(data_file=folder / COVERED, include=[str(root / "convext/**/*.py")])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.start()
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.coverage.stop()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.durations[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.save()
        (self.folder / DURATIONS).write_text(json.dumps(self.durations))


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get("CONVEXT_COVERING"):
        config.pluginmanager.register(Recorder(Path(folder), config.rootpath))


class Covering:
    """What a recorded run says."""

    def __init__(self, folder: Path) -> None:
        import coverage

        self.durations: dict[str, float] = json.loads((folder / DURATIONS).read_text())
        self.data = coverage.CoverageData(str(folder / COVERED))
        self.data.read()

    @cached_property
    def _contexts(self) -> dict[str, dict[int, list[str]]]:
        return {path: self.data.contexts_by_lineno(path) for path in self.data.measured_files()}

    def tests(self, path: Path, line: int, seconds: float) -> list[str]:
        """Tests for a mutant in `line`, of about so many seconds together.

        First those that see what few see of the function around it, its refusals for one; then the fastest of each test
        function. A line that runs at import belongs to no test: there, those that cover any line of its file.
        """
        by_line = self._contexts.get(str(path.resolve()), {})
        lines = statement(path, line)
        found = {test for at in lines for test in by_line.get(at, ()) if test}
        found = found or {test for tests in by_line.values() for test in tests if test}
        fastest_first = sorted(found & self.durations.keys(), key=self.durations.__getitem__)
        seen = [found.intersection(by_line.get(at, ())) for at in function(path, line)]
        rare = {test for tests in seen if len(tests) <= RARE for test in tests}
        chosen: dict[str, None] = {}
        for test in [*filter(rare.__contains__, fastest_first), *in_turn(fastest_first)]:
            if (seconds > 0 or not chosen) and test not in chosen:
                chosen[test] = None
                seconds -= self.durations[test]
        return list(chosen)


def in_turn(tests: list[str]) -> Iterator[str]:
    """One case of each test function, then the next of each."""
    functions: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        functions[test.partition("[")[0]].append(test)
    for turn in zip_longest(*functions.values()):
        yield from filter(None, turn)


def function(path: Path, line: int) -> range:
    """The lines of the innermost function around `line`, or that line alone."""
    around = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return min(around, key=len, default=range(line, line + 1))


def statement(path: Path, line: int) -> range:
    """The lines of the smallest statement around `line`, without the body that it may have."""
    best = range(line, line + 1)
    for node in ast.walk(ast.parse(path.read_text())):
        body: Any = getattr(node, "body", None)
        if isinstance(node, ast.stmt) and not (isinstance(body, list) and line >= body[0].lineno):
            last = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno
            if last is not None and node.lineno <= line <= last:
                best = range(node.lineno, last + 1)
    return best
