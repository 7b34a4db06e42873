"""What a user meets of the package itself: its names, what help() says, and a misspelt word."""

import inspect
import os
import pydoc
import re
import subprocess
import sys

import pytest
import torch

import convext
from convext import layers

SIX = [convext.Conv1d, convext.Conv2d, convext.Conv3d]
SIX += [convext.ConvTranspose1d, convext.ConvTranspose2d, convext.ConvTranspose3d]
NAMED = [kind for name, kind in vars(layers).items() if inspect.isclass(kind) and kind.__module__ == layers.__name__]
LAYERS = SIX + [kind for kind in NAMED if not kind.__name__.startswith("_")]


def test_dir_shows_what_is_for_users():
    seen = set(dir(convext))
    assert {"layers", "blocks", "analysis", "lint", "Conv2d", "everywhere", "__version__"} <= seen
    assert {name for name in seen if not name.startswith("__")} == set(convext.__all__)
    assert all(hasattr(convext, name) for name in seen)
    with pytest.raises(AttributeError, match="'convext' has no attribute 'nosuch'"):
        convext.nosuch  # noqa: B018


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_help_tells_every_argument_and_the_shapes(kind):
    text = pydoc.plain(pydoc.render_doc(kind))
    told = text.split("__init__(self")[1].split("Raises ValueError")[0]
    names = list(inspect.signature(kind).parameters)
    assert re.findall(r"^ \|          (\w+): ", told, re.MULTILINE) == names
    assert "Any" not in str(inspect.signature(kind))
    assert re.search(r"\[N, \w.*-> \[N, \w", inspect.getdoc(kind), re.DOTALL)
    if "padding" in names and not issubclass(kind, torch.nn.modules.conv._ConvTransposeNd):
        assert all(word in told for word in ('"same"', '"valid"', '"causal"', "(begin, end)"))


def test_there_are_as_many_layers_as_one_sees():
    assert len(LAYERS) == 6 + 6 * 3 + 1 + 3 + 2


@pytest.mark.parametrize(
    ("kind", "word", "meant"),
    [
        (convext.Conv1d, "casual", "'causal'"),
        (convext.Conv1d, "Same", "'same'"),
        (convext.Conv2d, "smae", "'same'"),
        (layers.DilatedConv3d, "vaild", "'valid'"),
        (convext.Conv2d, "reflect", None),
    ],
)
def test_a_misspelt_padding(kind, word, meant):
    arguments = (2,) if kind is layers.DilatedConv3d else ()
    with pytest.raises(ValueError, match=f"Invalid padding string {word!r}, should be one of .*'valid'") as error:
        kind(1, 1, 3, *arguments, padding=word)
    assert str(error.value).partition("did you mean ")[2] == (f"{meant}?" if meant else "")


@pytest.mark.parametrize("name", ["auto", "aten"])
def test_a_misspelt_padding_of_a_function(name):
    with convext.backend(name), pytest.raises(RuntimeError, match="did you mean 'causal'"):
        convext.functional.conv1d(torch.randn(1, 1, 5), torch.randn(1, 1, 3), padding="casual")


def test_a_misspelt_backend():
    with pytest.raises(ValueError, match=r"one of auto, triton, .* but got 'trition': did you mean 'triton'\?"):
        convext.backend("trition").__enter__()


@pytest.mark.parametrize(
    ("name", "said"),
    [("trition", "did you mean 'triton'?"), ("triton.stensil", "'triton.stencil'"), ("mine.fast", ""), ("cpu", "")],
)
def test_a_misspelt_environment(name, said):
    """At import, with the known names; but not a name that is like none, for who registers a kernel comes later."""
    code = """
import convext, torch
if "mine.fast" in __import__("os").environ["CONVEXT_BACKEND"]:
    aten = convext.kernels()[-1]
    convext.register(convext.Kernel("mine.fast", aten.faces, aten.why_not, aten.run))
    convext.Conv1d(1, 1, 3)(torch.randn(1, 1, 5))
"""
    environment = {**os.environ, "CONVEXT_BACKEND": name}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (f"CONVEXT_BACKEND='{name}' is none of auto, triton, cuda" in run.stderr) == bool(said)
    assert said in run.stderr
