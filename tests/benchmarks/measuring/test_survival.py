"""Planted kernels that raise, err, hang, take all memory or end their process cost their own rows and no others."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convext.benchmarks.cases.case import LAYOUTS, Case
from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.measuring import runner
from convext.choice import registry
from convext.commands import check
from convext.commands.isolated import LostError, Say, Worker
from convext.problem.roofline import H100

FOLDER = Path(__file__).parents[1]
HOW = {
    "raises": "RuntimeError: no such tile",
    "wrong": "error",
    "hangs": "hung",
    "greedy": "memory",
    "exits": "exited with status 7",
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of planted.py, in this process and in those that it starts."""
    monkeypatch.setenv("CONVEXT_KERNELS", "planted")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(registry, "KERNELS", [*registry.KERNELS])
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    __import__("planted")


@pytest.mark.usefixtures("planted")
@pytest.mark.long
def test_a_bad_kernel_costs_its_own_rows_and_no_more_time_than_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ALLOWANCE", 0.5)
    plan = runner.Plan("cpu", 1e5, 2e4, torch.float32, seconds=0.0, minutes=5.0)
    layer = next(layer for layer in model_layers() if layer.family == "depthwise").fit(plan.flops, plan.bytes)
    case = Case(layer, "fprop", torch.float32, "cpu")
    first, second = runner.run([case, case], plan, H100, patience=4.0)
    right = [f"{name}/{layout}" for name in ("torch.eager", "aten.convolution", "planted.right") for layout in LAYOUTS]
    for row in (first, second):
        assert set(right) <= set(row.times)
        assert set(row.ratios) == set(row.times) - {f"torch.eager/{layout}" for layout in LAYOUTS}
        assert row.baseline.startswith("torch.eager/")
        assert set(row.failures) == {f"planted.{name}/{layout}" for name in HOW for layout in LAYOUTS}
    for name, words in HOW.items():
        assert words in first.failures[f"planted.{name}/cl"]
        given_up = name in ("hangs", "exits")
        assert ("not run: it has cost" if given_up else words) in second.failures[f"planted.{name}/cl"]


@pytest.mark.usefixtures("planted")
def test_check_tells_what_hung_and_gives_it_up(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(check, "ALLOWANCE", 0.1)
    assert check._check_apart("planted.hangs", "cpu", patience=0.5).failed == 1
    failure, total = capsys.readouterr().out.splitlines()
    assert failure.startswith("  planted.hangs on ConvProblem(face='fprop'")
    assert failure.endswith("hung: nothing came back for 0.5 s")
    assert total.startswith("planted.hangs: 0 of 1 results agree (given up after ")


@pytest.mark.usefixtures("planted")
def test_check_goes_on_behind_the_problem_that_ended_its_process(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    clock = itertools.count()
    monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(check, "ALLOWANCE", 1.5)  # each loss takes a second by this clock
    assert check._check_apart("planted.exits", "cpu", patience=20.0).failed == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("its process exited with status 7") for line in lines] == [True, True, False]
    assert lines[0] != lines[1]  # another problem


def test_ctrl_c_ends_check_while_a_kernel_hangs() -> None:
    environment = {**os.environ, "CONVEXT_KERNELS": "planted", "PLANTED": "hangs", "PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-m", "convext", "check", "--backend", "planted", "--patience", "60"]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which what runs in the background does not
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=listen) as process:
        assert process.stdout is not None
        assert "against float64" in process.stdout.readline()
        time.sleep(0.5)  # its thread waits for the worker by now
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


# ------------------------------------------------------------------------------------- a case that loses its process

CASE = Case(model_layers()[0].fit(1e5, 2e4), "fprop", torch.float32, "cpu")


class Scripted:
    """A worker whose process is lost where `dies` says so: given the names that it told so far in this request."""

    def __init__(self, dies: Callable[[list[str]], bool]) -> None:
        self.dies, self.answered = dies, 0
        self.asked: list[dict[str, str]] = []

    def ask(self, request: runner._Request) -> Iterator[object]:
        self.asked.append(dict(request.without))
        told: list[str] = []
        contenders = ["torch.eager/nc", "torch.eager/cl", "triton.a/nc", "cuda.b/nc", "aten.convolution/nc"]
        for name in ("(operands)", *contenders, *contenders):  # checked, then timed
            if name in request.without or name.rpartition("/")[0] in request.without:
                continue
            told.append(name)
            yield name
            if self.dies(told):
                raise LostError("ended")
        row = runner.blank(request.case, H100)
        row.times = {name: [1.0, 1.0, 1.0] for name in told if "/" in name}
        row.failures = dict(request.without)
        yield row
        self.answered += 1  # whoever stops listening at the row leaves the end of this answer to the next request


def scripted(monkeypatch: pytest.MonkeyPatch, dies: Callable[[list[str]], bool]) -> tuple[runner._Crew, Scripted]:
    worker = Scripted(dies)
    monkeypatch.setattr(runner, "Worker", lambda *arguments, **options: worker)
    return runner._Crew(runner.Plan.of("cpu"), H100, False, 1.0), worker


def test_a_case_is_measured_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, worker = scripted(monkeypatch, lambda told: False)
    assert len(crew.row(CASE).times) == 5
    assert worker.asked == [{}]
    assert worker.answered == 1


def test_torchs_results_survive_what_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, worker = scripted(monkeypatch, lambda told: told[-1] == "triton.a/nc")
    row = crew.row(CASE)
    assert row.failures == {"triton.a/nc": "ended"}
    assert set(row.times) == {"torch.eager/nc", "torch.eager/cl", "cuda.b/nc", "aten.convolution/nc"}
    assert len(worker.asked) == 2
    assert set(crew._lost) == {"triton.a"}


def test_what_has_cost_too_much_is_given_up_and_torch_never_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=1000)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    crew, worker = scripted(monkeypatch, lambda told: told[-1] in ("cuda.b/nc", "torch.eager/cl"))
    crew.row(CASE)
    worker.asked.clear()
    crew.row(CASE)
    assert worker.asked[0] == {"cuda.b": "not run: it has cost 1000 s by hanging or ending its process"}


@pytest.mark.parametrize("at", ["torch.eager/nc", "aten.convolution/nc"])
def test_where_torchs_own_is_lost_behind_ours_it_is_measured_without_them(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    crew, worker = scripted(monkeypatch, lambda told: told[-1] == at and "cuda.b/nc" in told)
    row = crew.row(CASE)
    assert set(row.times) == {"torch.eager/nc", "torch.eager/cl", "aten.convolution/nc"}
    assert row.failures == dict.fromkeys(["triton.a/nc", "cuda.b/nc"], f"not timed: {at} was lost beside it")
    assert len(worker.asked) == 2
    assert not crew._lost


def test_torchs_own_that_is_lost_alone_too_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, worker = scripted(monkeypatch, lambda told: told[-1] == "torch.eager/cl")
    row = crew.row(CASE)
    assert row.failures == {"torch.eager/cl": "ended"}
    assert {"torch.eager/nc", "triton.a/nc", "cuda.b/nc"} <= set(row.times)
    assert len(worker.asked) == 3  # the second in a new process, which no earlier case has touched


def test_operands_that_are_lost_twice_end_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    crew, worker = scripted(monkeypatch, lambda told: told[-1] == "(operands)")
    row = crew.row(CASE)
    assert (row.failures, row.times) == ({"case": "ended, at (operands)"}, {})
    assert len(worker.asked) == 2


# ------------------------------------------------------------------------------------------------------ a worker


def _answer(request: object, say: Say) -> None:
    say(f"got {request}")
    if request == "raise":
        raise ValueError("two\nlines")
    if request == "exit":
        os._exit(3)
    if request == "hang":
        time.sleep(60)
    say(os.getpid())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(_answer, patience=1.0)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ("raise", "ValueError: two"),
        ("exit", "its process exited with status 3"),
        ("hang", "hung: nothing came back for 1 s"),
    ],
)
def test_what_was_said_before_the_end_arrives_and_the_next_request_is_answered(
    worker: Worker, request_: str, reason: str
) -> None:
    messages: list[object] = []
    with pytest.raises(LostError) as caught:
        messages.extend(worker.ask(request_))
    assert messages == [f"got {request_}"]
    assert str(caught.value) == reason
    first, process = worker.ask("again")
    assert (first, process != os.getpid()) == ("got again", True)
    assert list(worker.ask("more")) == ["got more", process]  # the same process, as long as nothing is wrong
