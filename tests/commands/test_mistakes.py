"""A user's mistake on the command line: one line that names it, exit status 2, and nothing done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from convext.__main__ import main

EXPLAIN = ("explain", "--input", "1", "8", "16", "16", "--out-channels", "8", "--kernel-size", "3")
MISTAKES = {
    "no command": ((), "required: command"),
    "no such command": (("bnech",), "invalid choice: 'bnech'"),
    "no such backend": (("check", "--backend", "nosuch"), "but got 'nosuch'"),
    "patience": (("check", "--patience", "0"), "must be above 0, but got 0"),
    "no results to report": (("bench", "--report", "nosuch.jsonl"), "no such file: nosuch.jsonl"),
    "no results to compare": (("bench", "--compare", "a", "b"), "no such file: a"),
    "no time": (("bench", "--minutes", "0"), "must be above 0, but got 0"),
    "time backwards": (("bench", "--minutes", "-1"), "must be above 0, but got -1"),
    "endless": (("bench", "--minutes", "nan"), "must be above 0, but got nan"),
    "nothing to compare": (("bench", "--fail-below", "0.9"), "--fail-below is for --compare"),
    "autocast of layers": (("bench", "--autocast"), "--autocast is for --networks"),
    "no such network": (("bench", "--networks", "nothing"), "no network has one of ['nothing'] in its name"),
    "two modes": (("bench", "--overhead", "--sweep", "causal"), "--overhead does not read --sweep"),
    "two choices": (("bench", "--layers", "conformer", "--sweep", "causal"), "give one of them"),
    "no such layer": (("bench", "--layers", "nosuch"), "no layer has one of ['nosuch']"),
    "groups": ((*EXPLAIN, "--groups", "7"), "in_channels must be divisible by groups"),
    "negative kernel": (("explain", "--kernel-size", "-3"), "must be at least 1, but got -3"),
    "negative padding": ((*EXPLAIN, "--padding", "-1"), "must not be negative, but got -1"),
    "output padding": ((*EXPLAIN, "--output-padding", "1"), "add --transposed"),
    "architecture": ((*EXPLAIN, "--arch", "12"), "as 80, 90 or 120, but got 12"),
    "rank": (("explain", "--input", "3", "3", "--out-channels", "8", "--kernel-size", "3"), "1 to 3 spatial sizes"),
    "axes": ((*EXPLAIN, "--stride", "1", "2", "3"), "--stride takes 1 or 2 values, but got [1, 2, 3]"),
    "too small": ((*EXPLAIN, "--dilation", "9"), "does not take an input of shape [1, 8, 16, 16]"),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--device", "cuda"])
    assert "there is none here: " in capsys.readouterr().err.splitlines()[-1]


def test_a_file_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.jsonl").write_text("milk\neggs\n")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--report", str(tmp_path / "notes.jsonl")])
    assert ended.value.code == 2
    assert "has no line that describes a run" in capsys.readouterr().err.splitlines()[-1]


def test_a_report_without_what_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.jsonl").write_text('{"record": "run"}\n')
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "convext.benchmarks.reporting.pictures", raising=False)
    monkeypatch.delattr("convext.benchmarks.reporting.pictures", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--report", str(tmp_path / "some.jsonl")])
    assert ended.value.code == 2
    assert "pip install 'convext[plots]'" in capsys.readouterr().err.splitlines()[-1]


def test_a_pipe_that_is_closed_early() -> None:
    command = f"{sys.executable} -m convext {' '.join(EXPLAIN)} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("forward (fprop) of a dense 2-D convolution")
    assert done.stderr == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"convext {convext.__version__}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there a Triton kernel runs")
def test_a_check_of_nothing_is_no_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    assert main(["check", "--backend", "triton.stencil"]) == 1
    assert "nothing was checked: no kernel ran" in capsys.readouterr().out
