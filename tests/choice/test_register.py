"""CONTRIBUTING's worked example: a kernel from outside the package, and every command on it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from convext.choice import registry, remembered
from convext.choice.registry import Kernel

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
TOY = re.search(r"```python\n(.+?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def records(monkeypatch):
    """The records, as they were before, after the test."""
    monkeypatch.setattr(registry, "KERNELS", [*registry.KERNELS])
    yield registry.KERNELS
    remembered.forget()


@pytest.fixture
def toy(records):
    exec(compile(TOY, "toy.py", "exec"), {"__name__": "toy"})


@pytest.mark.usefixtures("toy")
def test_it_computes_what_it_takes_and_refuses_the_rest():
    x, w, bias = torch.randn(2, 3, 5, 7), torch.randn(4, 3, 1, 1), torch.randn(4)
    with convext.backend("toy"):
        y = convext.functional.conv2d(x.to(memory_format=torch.channels_last), w, bias)
        with pytest.raises(ValueError, match=r"toy.pointwise: takes one tap and one group, but got 9 taps"):
            convext.functional.conv2d(x, torch.randn(4, 3, 3, 3))
        with pytest.raises(ValueError, match=r"but got \(3, 4\) pixels of \(5, 7\), stride \(2, 2\)"):
            convext.functional.conv2d(x, w, stride=2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w, bias))


def test_a_call_from_before_knows_it_afterwards(records):
    x, w = torch.randn(2, 3, 5), torch.randn(4, 3, 1)
    with convext.backend("aten"):
        convext.functional.conv1d(x, w)
    seen = []

    def watched(*call):
        seen.append(1)
        return registry.ATEN.run(*call)

    convext.register(Kernel("aten.watched", ("fprop",), lambda problem: None, watched))
    with convext.backend("aten"):
        convext.functional.conv1d(x, w)
    assert seen == [1]
    assert records[-1] is registry.ATEN


@pytest.mark.parametrize(
    ("name", "faces", "message"),
    [
        ("toy", ("fprop",), 'a kernel\'s name is "provider.kernel"'),
        ("Toy.k", ("fprop",), "but got 'Toy.k'"),
        ("auto.k", ("fprop",), "but got 'auto.k'"),
        ("triton.stencil", ("fprop",), "there is a kernel 'triton.stencil'"),
        ("toy.k", (), "faces are one or more of fprop, dgrad, wgrad, but got ()"),
        ("toy.k", ("forward",), "but got ('forward',)"),
    ],
)
def test_what_is_no_record_is_refused(records, name, faces, message):
    before = [*records]
    with pytest.raises(ValueError, match=re.escape(message)):
        convext.register(Kernel(name, faces, lambda problem: None, registry.ATEN.run))
    assert records == before


def command(folder, *arguments):
    (folder / "toy.py").write_text(TOY)
    environment = {**os.environ, "CONVEXT_KERNELS": "toy", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "convext", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_check(tmp_path):
    printed = command(tmp_path, "check", "--backend", "toy")
    assert "toy.pointwise" in printed
    assert "FAIL" not in printed


def test_explain(tmp_path):
    arguments = ("--input", "2", "8", "9", "--out-channels", "4", "--kernel-size", "3")
    assert "takes one tap and one group, but got 3 taps" in command(tmp_path, "explain", *arguments)


def test_bench(tmp_path):
    layers = ("--layers", "pointwise", "--work", "fprop", "--minutes", "0.05")
    command(tmp_path, "bench", *layers, "--out", str(tmp_path / "out"))
    (results,) = (tmp_path / "out").glob("*.jsonl")
    assert "toy.pointwise/" in results.read_text()
