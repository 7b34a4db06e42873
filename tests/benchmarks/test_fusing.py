"""`python -m convext.benchmarks.fusing`, on a small network: its table and its file."""

import json
import sys

import pytest
import torch

from convext.benchmarks import fusing
from convext.benchmarks.measuring.networks import Network
from convext.measuring.sampling import Plan


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU())


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(fusing, "keep_freed_memory", lambda: True)  # which lasts as long as the process
    monkeypatch.setattr(fusing, "PLAN", Plan(sample=1e-5, fewest=2, most=2, enough=0.0))
    monkeypatch.setattr(fusing, "builders", lambda: {"torchvision small": Network(small, (3, 17, 17))})
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_small")
def test_the_table_and_the_file(tmp_path, monkeypatch, capsys):
    out = tmp_path / "fuse.json"
    monkeypatch.setattr(sys, "argv", ["fusing", "small", "--batch", "1", "2", "--out", str(out)])
    fusing.main()
    said = capsys.readouterr().out
    assert "folded" in said
    assert "small 2" in said
    written = json.loads(out.read_text())
    assert [row["batch"] for row in written["rows"]] == [1, 2]
    for row in written["rows"]:
        assert row["network"] == "small"
        assert set(row["seconds"]) == {"fuse", "torch", "torch cl", "folded", "folded cl"}
        for other, (value, low, high) in row["speed"].items():
            assert value == pytest.approx(row["seconds"][other] / row["seconds"]["fuse"])
            assert low <= high
    assert written["run"]["torch"] == torch.__version__
    fusing.main()
    assert [row["batch"] for row in json.loads(out.read_text())["rows"]] == [1, 2, 1, 2]
    monkeypatch.setattr(fusing, "commit", lambda: "another")
    fusing.main()
    assert [row["batch"] for row in json.loads(out.read_text())["rows"]] == [1, 2]


@pytest.mark.usefixtures("_small")
def test_no_network_is_begun_after_the_minutes(tmp_path, monkeypatch, capsys):
    """But for the first. By a clock on which each takes a minute."""
    clock = iter(range(0, 600, 60))
    monkeypatch.setattr(fusing.time, "monotonic", lambda: next(clock))
    out = tmp_path / "fuse.json"
    monkeypatch.setattr(
        sys, "argv", ["fusing", "small", "--batch", "1", "2", "3", "4", "--minutes", "1.5", "--out", str(out)]
    )
    fusing.main()
    assert [row["batch"] for row in json.loads(out.read_text())["rows"]] == [1, 2]
    assert "2 of 4 were not begun (--minutes gives more time): small 3, small 4" in capsys.readouterr().out


@pytest.mark.usefixtures("_small")
def test_an_unknown_network(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fusing", "nosuch"])
    with pytest.raises(SystemExit, match="2"):
        fusing.main()
    assert "invalid choice: 'nosuch' (choose from" in capsys.readouterr().err
