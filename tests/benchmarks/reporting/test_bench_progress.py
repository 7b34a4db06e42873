"""A measurement says how far it is, on standard error, whether that is a terminal or a file."""

import pytest

from convext.benchmarks.reporting import table


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: float) -> list[str]:
    """What is said while ten cases take six seconds each."""
    now = [100.0]
    monkeypatch.setattr(table.time, "monotonic", lambda: now[0])
    with table.Progress(10, **options) as progress:
        for i in range(10):
            now[0] += 6
            progress.step(f"case {i}")
    out, error = capsys.readouterr()
    assert out == ""
    return error.splitlines()


def test_the_rate_tells_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(monkeypatch, capsys)
    assert said[0] == "1 of 10, 0:54 left, case 0"
    assert said[1] == "3 of 10, 0:42 left, case 2"
    assert len(said) == 5


def test_minutes_end_it_earlier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(monkeypatch, capsys, minutes=0.5)[:2] == ["1 of 10, 0:24 left, case 0", "3 of 10, 0:12 left, case 2"]
