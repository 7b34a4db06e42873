"""Medians, ratios and verdicts on samples whose answer is known, and the order in which samples are taken."""

import math
import threading
import time

import numpy as np
import pytest

from convext.benchmarks.measuring import timing
from convext.benchmarks.measuring.timing import copies_past_cache, interleaved
from convext.benchmarks.reporting.stats import Spread, geomean
from convext.measuring.ratios import Ratio, speedup


def lognormal(median: float, seed: int, rounds: int = 30, sigma: float = 0.05) -> list[float]:
    return list(median * np.exp(np.random.default_rng(seed).normal(0, sigma, rounds)))


def test_spread_is_the_percentiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == Spread(3.0, 1.8, 4.2)


@pytest.mark.parametrize(("speed", "verdict"), [(1.3, "faster"), (0.7, "slower"), (1.0, "same"), (1.005, "same")])
def test_verdict_of_a_known_ratio(speed: float, verdict: str) -> None:
    ratio = speedup(lognormal(10.0, 1), lognormal(10.0 / speed, 2))
    assert ratio.value == pytest.approx(speed, rel=0.05)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.verdict == verdict


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        ratio = speedup(lognormal(2.0, seed), lognormal(1.0, 1000 + seed), resamples=200)
        covered += ratio.low <= 2.0 <= ratio.high
    assert 0.88 <= covered / 200 <= 1.0


def test_a_slow_round_cancels() -> None:
    machine = np.exp(np.random.default_rng(0).normal(0, 0.5, 30))  # clocks that drift by half
    ratio = speedup(list(12.0 * machine), list(10.0 * machine))
    assert ratio.value == pytest.approx(1.2)
    assert (ratio.low, ratio.high) == pytest.approx((1.2, 1.2))


def test_one_tight_percent_is_noise_all_the_same() -> None:
    assert Ratio(1.009, 1.008, 1.0095).verdict == "same"
    assert Ratio(0.97, 0.96, 0.98).verdict == "slower"


def test_samples_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        speedup([1.0, 2.0], [1.0])


def test_geomean() -> None:
    assert geomean([2.0, 0.5]) == pytest.approx(1.0)
    assert geomean([2.0, 8.0], [3, 1]) == pytest.approx(2**1.5)
    assert math.isnan(geomean([]))


class Clock:
    """A clock that goes on by what is asked of it alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for name in ("perf_counter", "monotonic"):
            monkeypatch.setattr(timing.time, name, lambda: self.now)

    def spin(self, seconds: float) -> None:
        self.now += seconds


def test_interleaved_sampling_measures_and_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = Clock(monkeypatch)

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock.spin(seconds)

    calls = {"fast": lambda i: call("fast", 2e-3), "slow": lambda i: call("slow", 4e-3)}
    samples = interleaved(calls, "cpu", 0.1)
    assert samples["fast"] == pytest.approx([2e-3] * len(samples["slow"]))
    assert samples["slow"] == pytest.approx([4e-3] * len(samples["fast"]))
    assert len(samples["fast"]) == 17  # rounds of 6 ms, until a tenth of a second is over
    firsts = order[2::2]  # after the estimates, one call a sample: the two take turns at being first
    assert firsts[:4] == ["fast", "slow", "fast", "slow"]


def test_what_is_far_slower_than_what_it_is_held_to_is_in_the_first_rounds_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    seconds = {"torch": 2e-3, "slow torch": 50e-3, "ours": 3e-3, "hopeless": 9e-3}
    hiccup = [True]

    def call(name: str) -> None:
        clock.spin(seconds[name] + (20e-3 if name == "ours" and hiccup and hiccup.pop() else 0.0))

    calls = {name: lambda i, name=name: call(name) for name in seconds}
    samples = interleaved(calls, "cpu", 0.1, held_to=["torch", "slow torch"])
    assert {name: len(each) for name, each in samples.items()} == {
        "torch": 7,
        "slow torch": 7,
        "ours": 7,
        "hopeless": 3,
    }
    assert samples["hopeless"] == pytest.approx([9e-3] * 3)
    assert len(interleaved(calls, "cpu", 0.1)["hopeless"]) == 7  # held to nothing


def test_those_that_compete_make_as_many_calls_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first finds its operands gone from the caches: it would weigh more in fewer calls."""
    clock = Clock(monkeypatch)
    last, hiccup = [""], [0.9e-3, 0.0]

    def call(name: str) -> None:
        clock.spin(0.5e-3 if last[0] != name else 0.1e-3)
        if name == "b" and hiccup:
            clock.spin(hiccup.pop(0))
        last[0] = name

    samples = interleaved({name: lambda i, name=name: call(name) for name in "abcd"}, "cpu", 0.05)
    assert samples["a"] == pytest.approx([(0.5e-3 + 0.1e-3) / 2] * len(samples["a"]))
    assert samples["b"] == pytest.approx(samples["a"])


def test_calls_get_different_buffers_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    clock = Clock(monkeypatch)

    def call(i: int) -> None:
        seen.append(i)
        clock.spin(0.6e-3)

    interleaved({"only": call}, "cpu", 0.01)
    assert seen[1:] == list(range(len(seen) - 1))


def test_buffers_outgrow_the_cache() -> None:
    assert copies_past_cache(10, 0) == 1
    assert copies_past_cache(10 << 20, 50 << 20) * (10 << 20) > 2 * (50 << 20)
    assert copies_past_cache(1, 50 << 20) == 64


class Device:
    """A device that is always a given time behind the host, for the loop that waits for the queue to fill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host_seconds: float) -> None:
        self.host_seconds, self.waits, self.now = host_seconds, [], 0.0
        monkeypatch.setattr(timing.torch, "cuda", self)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def _sleep(self, cycles: int) -> None:
        self.waits.append(cycles / timing.CYCLES_PER_SECOND)
        self.now = 0.0

    def synchronize(self) -> None:
        pass

    def Event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.device.now > self.device.waits[-1]

    def elapsed_time(self, other: "Event") -> float:
        return 3.0  # milliseconds


def test_a_sample_is_taken_again_until_the_queue_was_full_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, host_seconds=1e-3)

    def call(i: int) -> None:
        device.now += device.host_seconds

    clock = timing._CudaClock(call)
    assert clock.elapsed(0, 3) == pytest.approx(3e-3)
    assert device.waits == pytest.approx([0.8e-3, 6e-3])  # a guess, then twice what the host took
    clock.elapsed(3, 3)
    assert device.waits[2:] == pytest.approx([6e-3])  # the next sample begins with the wait that was long enough


def test_one_hiccup_of_the_host_does_not_make_every_later_sample_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, host_seconds=10e-3)

    def call(i: int) -> None:
        device.now += device.host_seconds

    clock = timing._CudaClock(call)
    clock.elapsed(0, 1)
    device.host_seconds = 20e-6
    for _ in range(3):
        clock.elapsed(0, 1)
    assert device.waits == pytest.approx([0.4e-3, 20e-3, 20e-3, 40e-6, 40e-6])


def test_a_device_whose_wait_is_shorter_than_it_should_be_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, host_seconds=0.0)
    monkeypatch.setattr(Event, "query", lambda self: True)
    timing._CudaClock(lambda i: None).elapsed(0, 1)
    assert device.waits[:3] == pytest.approx([0.4e-3, 0.8e-3, 1.6e-3])
    assert len(device.waits) == 9  # up to a tenth of a second


def test_a_device_that_never_falls_behind_is_waited_for_a_tenth_of_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(monkeypatch, host_seconds=1.0)

    def call(i: int) -> None:
        device.now += device.host_seconds

    clock = timing._CudaClock(call)
    for _ in range(3):
        clock.elapsed(0, 50)
    assert max(device.waits) == pytest.approx(0.1)
    assert sum(device.waits) < 0.6


def test_a_sample_that_takes_no_time_by_the_clock_is_not_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 1.0)
    samples = interleaved({"a": lambda i: None, "b": lambda i: None}, "cpu", 0.0)
    assert all(0 < sample < 1e-6 for sample in samples["a"])
    assert speedup(samples["a"], samples["b"]).value == 1.0


def test_threads_of_a_contender_are_timed_with_it() -> None:
    """Processor time of the calling thread would be next to nothing."""

    def call(i: int) -> None:
        thread = threading.Thread(target=time.sleep, args=(3e-3,))
        thread.start()
        thread.join()

    assert min(interleaved({"threaded": call}, "cpu", 0.0)["threaded"]) >= 3e-3
