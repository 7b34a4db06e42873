"""The entry points of pytest-benchmark: a family's layers run, and a wrong kernel is not timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pytest", "-q"]


@pytest.mark.long
def test_a_family_is_timed(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    out = tmp_path / "out.json"
    options = ["-k", "depthwise and fprop", "--benchmark-max-time=0.01", f"--benchmark-json={out}"]
    done = subprocess.run(
        [*COMMAND, "benchmarks/pytest_layers.py", *options], cwd=ROOT, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    timed = json.loads(out.read_text())["benchmarks"]
    groups = {entry["group"] for entry in timed}
    assert len(groups) == 2
    for group in groups:
        names = [entry["param"] for entry in timed if entry["group"] == group]
        assert any("torch.eager/nc" in name for name in names)
        assert any("torch" not in name for name in names)
    assert all(0 < entry["stats"]["median"] < 10 for entry in timed)


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from convext.benchmarks import pytest_layers
    from convext.benchmarks.measuring.providers import Contender, contenders

    case = pytest_layers._cases()[0]
    right = next(contenders(case))
    wrong = Contender("planted", "nc", lambda t: tuple(1.01 * result for result in right.call(t)))
    timed: list[object] = []

    class Benchmark:
        group = ""

        def __call__(self, function: object) -> None:
            timed.append(function)

    with pytest.raises(pytest.fail.Exception, match=r"not timed: .*error"):
        pytest_layers.test_speed(case, wrong, Benchmark())
    assert not timed
    pytest_layers.test_speed(case, right, Benchmark())
    assert len(timed) == 1
