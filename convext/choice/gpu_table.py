"""What was measured to be fastest: one table for each GPU architecture, written by `python -m convext tune`.

A measured problem is a point on logarithmic axes, within a kind (face, family, rank, dtype, memory format, precision)
that has to match. A problem takes the kernel of the nearest point of its kind, if that is near: no axis more than a
factor of REACH away. Nothing is ever measured in a call.

    {"device": "...", "torch": "...", "triton": "...", "commit": "...",
     "choices": [{"kind": "fprop depthwise 2-D bfloat16 channels_last", "point": [..], "kernel": "..", "ratio": ..}]}

`ratio` is the time of torch's best divided by the kernel's; 1.0 where torch's own was the fastest.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from convext.choice.remembered import FORGET, forget
from convext.problem import ConvProblem

FOLDER = Path(__file__).parent / "tables"
REACH = 8.0


@dataclass(frozen=True)
class Choice:
    """The fastest kernel of one measured problem."""

    kind: str
    point: tuple[float, ...]
    kernel: str
    ratio: float

    @classmethod
    def of(cls, problem: ConvProblem, kernel: str, ratio: float) -> Choice:
        """The choice of `kernel` for `problem`."""
        return cls(kind(problem), point(problem), kernel, ratio)


def kind(problem: ConvProblem) -> str:
    """What has to be the same for a measurement to say anything about a problem."""
    p = problem
    dtype = str(p.dtype).removeprefix("torch.") + (f"/{p.precision}" if p.dtype is torch.float32 else "")
    layout = "channels_last" if p.channels_last else "channels_first"
    return f"{p.face} {p.family} {p.rank}-D {dtype} {layout}"


def point(problem: ConvProblem) -> tuple[float, ...]:
    """log2 of: pixels, channels of x and of y in a group, groups, taps, largest stride, largest dilation."""
    p = problem
    pixels = p.n * math.prod(p.output)
    sizes = (pixels, p.c // p.groups, p.k // p.groups, p.groups, p.taps, max(p.stride), max(p.dilation))
    return tuple(round(math.log2(max(size, 1)), 3) for size in sizes)


def nearest(problem: ConvProblem) -> Choice | None:
    """The measured choice nearest to `problem`, or None where its architecture has none that is near."""
    here, reach = point(problem), math.log2(REACH)

    def distances(choice: Choice) -> list[float]:
        return [abs(a - b) for a, b in zip(choice.point, here, strict=True)]

    near = [choice for choice in _table(problem.arch).get(kind(problem), ()) if max(distances(choice)) <= reach]
    return min(near, key=lambda choice: sum(distances(choice)), default=None)


def path_of(arch: int) -> Path:
    """The file of an architecture's table, which is there where one of its GPUs was measured."""
    return FOLDER / f"sm_{arch}.json"


def measured_on(arch: int) -> dict[str, str] | None:
    """On which device, by which versions and commit an architecture was measured; None where it never was."""
    path = path_of(arch)
    if not path.exists():
        return None
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "choices"}


@cache
def _table(arch: int) -> dict[str, list[Choice]]:
    """The choices of an architecture by kind; empty where nothing was measured."""
    path = path_of(arch)
    by_kind: dict[str, list[Choice]] = defaultdict(list)
    if path.exists():
        for row in json.loads(path.read_text())["choices"]:
            by_kind[row["kind"]].append(Choice(row["kind"], tuple(row["point"]), row["kernel"], row["ratio"]))
    return dict(by_kind)


def write(path: Path, choices: list[Choice], measured_on: dict[str, str]) -> None:
    """Writes a table; `measured_on` says with which device, versions and commit."""
    rows = sorted((asdict(choice) for choice in choices), key=lambda row: (row["kind"], row["point"]))
    text = json.dumps({**measured_on, "choices": rows}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    forget()


FORGET.append(_table.cache_clear)
