"""Types of the commands' arguments: what cannot be meant is refused in one line, as argparse refuses a bad choice."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from convext.choice import registry


def positive(text: str) -> float:
    """A number above zero: seconds, minutes, a ratio."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, but got {text}")
    return value


def count(text: str) -> int:
    """A whole number of at least one: sizes, strides, dilations, groups."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {text}")
    return value


def count_or_zero(text: str) -> int:
    """A whole number of at least zero: paddings, batches."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, but got {text}")
    return value


def backend(text: str) -> str:
    """What `convext.backend` takes."""
    try:
        registry.check_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def device(text: str) -> str:
    """One of cpu and, where there is one, cuda."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, but got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"there is none here: {why_no_cuda()}")
    return text


def why_no_cuda() -> str:
    """Why torch has no CUDA device here."""
    return "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"


def capability(text: str) -> int:
    """A compute capability times ten, of a GPU that torch 2.11 and Triton 3.6 compile for: 75 to 129."""
    value = int(text)
    if not 75 <= value < 130:
        raise argparse.ArgumentTypeError(f"compute capability times ten, as 80, 90 or 120, but got {text}")
    return value


def existing(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path
