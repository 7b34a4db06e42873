"""What the regret tool says of samples whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from convext.benchmarks.tuning import regret
from convext.benchmarks.tuning.cpu import scattered
from convext.choice import registry


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds a call by record, in place of the clock's; "auto" takes torch's own."""
    seconds = {registry.ATEN.name: 3e-3, "cpu.stencil": 2e-3, "plain.swap": 4e-3}
    monkeypatch.setattr(regret, "contenders", lambda problem: dict.fromkeys(seconds))
    monkeypatch.setattr(regret, "interleaved", lambda calls, clock, plan: {n: [seconds[n]] * 5 for n in calls})
    monkeypatch.setattr(registry, "choose", lambda problem: registry.ATEN)
    return seconds


def test_regret_is_what_was_taken_to_the_fastest(told: dict[str, float]) -> None:
    (problem,) = islice(scattered(1), 1)
    found = regret.regret(problem)
    assert (found.taken, found.best) == ("aten.convolution", "cpu.stencil")
    assert (found.lost.value, found.to_torch.value) == pytest.approx((1.5, 1.0))
    told["aten.convolution"] = 1e-3
    assert regret.regret(problem).lost.value == pytest.approx(1.0)


def test_the_summary_counts_what_is_slower_than_torchs(
    told: dict[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swap = replace(registry.ATEN, name="plain.swap")
    monkeypatch.setattr(registry, "choose", lambda problem: swap)
    monkeypatch.setattr("sys.argv", ["regret", "--problems", "3"])
    monkeypatch.setattr(regret, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(regret.torch, "set_num_threads", lambda count: None)
    regret.main()
    said = capsys.readouterr().out
    assert "regret: median 100.0%, 95% 100.0%, most 100.0%" in said
    assert "3 of 3 problems are not torch's; 3 of these are slower" in said
    assert "mean 0.75x" in said
