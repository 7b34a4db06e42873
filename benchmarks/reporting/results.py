"""Results as JSON lines: one line that describes the run, then one for each case as soon as it is measured.

    {"record": "run",  "device": .., "driver": .., "clocks": .., "torch": .., "commit": .., "command": ..}
    {"record": "case", "layer": "7", "work": "dgrad", "times": {"torch.eager/nc": [median, p20, p80], ..}, ..}
    {"record": "end",  "seconds": .., "left_out": [..]}

Times are microseconds. A run that was interrupted has no "end"; what it measured is there all the same.
"""

from __future__ import annotations

import itertools
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

import convext
from convext.choice import registry, settings
from convext.measuring.ratios import NOISE

FOLDER = Path(__file__).parents[1] / "results"


@dataclass
class Row:
    """What was measured for one case.

    Attributes:
        layer, name, family, work, dtype, transposed, count, layout: which case (see `Layer`).
        cut: what was made smaller to fit the device, or "".
        checked: what the gate looked at.
        ideal: lower bound on this device, in microseconds; `bound` says by what.
        baseline: the contender of torch's with the least median.
        chosen: what "auto" runs, by layout.
        ours: layouts in which "auto" takes a face from torch's own kernels.
        times: [median, p20, p80] by contender, in microseconds; of few samples where it is far slower than torch.
        ratios: [ratio, low, high] to the baseline, of every contender that is not torch's; above 1 is faster.
        memory: peak bytes beyond operands and result by contender; empty where it is not measured.
        failures: contenders that were not timed, with how they disagreed or what they raised.
        published: what others report for the whole layer's forward, in their words.
    """

    layer: str
    name: str
    family: str
    work: str
    dtype: str
    transposed: bool
    count: int
    layout: str
    checked: str
    ideal: float
    bound: str
    cut: str = ""
    baseline: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    published: str = ""
    ours: list[str] = field(default_factory=list)

    @property
    def forward(self) -> bool:
        """Whether this is the layer's forward: `dgrad` is the forward of a transposed layer."""
        return self.work == ("dgrad" if self.transposed else "fprop")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes rows of two runs comparable."""
        return self.layer, self.work, self.dtype, self.cut

    def auto(self, layout: str | None = None) -> str | None:
        """The contender that "auto" runs in `layout`, by default in its faster one; None where none was timed."""
        names = [f"{name}/{where}" for where, name in self.chosen.items() if layout in (None, where)]
        return min((n for n in names if n in self.times), key=lambda n: self.times[n][0], default=None)

    def ratio(self) -> list[float] | None:
        """[ratio, low, high] of "auto" to torch, both in the layout that suits them best; None where not timed."""
        return self.ratios.get(self.auto() or "")

    def lost(self, layout: str) -> float | None:
        """How "auto" compares with the best of torch's in this very layout, where it is slower beyond the spread."""
        name = self.auto(layout)
        torchs = [t for n, t in self.times.items() if n.startswith("torch.") and n.endswith(f"/{layout}")]
        if name is None or not torchs:
            return None
        best = min(torchs)
        median, p20, _ = self.times[name]
        return best[0] / median if p20 > best[2] and median > (1 + NOISE) * best[0] else None


@dataclass
class Results:
    """A results file that was read."""

    run: dict[str, Any]
    rows: list[Row]
    end: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads a file; raises ValueError where it is not one of ours. A line that was cut off is left out."""
        run, rows, end = None, [], None
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            kind = record.pop("record", None)
            if kind == "run":
                run = record
            elif kind == "case":
                rows.append(Row(**record))
            elif kind == "end":
                end = record
        if run is None:
            raise ValueError(f"{path} has no line that describes a run")
        return cls(run, rows, end)


class Writer:
    """Writes a results file, line by line, so that an interrupted run leaves what it has."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: TextIO = path.open("w")
        self._line("run", run)

    def _line(self, kind: str, record: dict[str, Any]) -> None:
        filled = {k: v for k, v in record.items() if v not in ("", {}, None)}
        self._file.write(json.dumps({"record": kind, **filled}) + "\n")
        self._file.flush()

    def row(self, row: Row) -> None:
        self._line("case", asdict(row))

    def end(self, record: dict[str, Any]) -> None:
        self._line("end", record)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def describe(device: str, peaks: Any) -> dict[str, Any]:
    """The line about a run: machine, versions, settings, commit, command."""
    import importlib.metadata as metadata

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    gpu = gpu_state() if device == "cuda" else {}
    return {
        "device": device_name(device),
        "kind": device,
        "arch": registry.arch(torch.device("cuda", torch.cuda.current_device())) if device == "cuda" else 0,
        "driver": gpu.get("driver_version"),
        "gpu": gpu,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "float32": settings.fp32_precision() if device == "cuda" else "ieee",
        "convext": convext.__version__,
        "commit": commit(),
        "command": " ".join(["python -m convext", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "peaks": {"bandwidth": peaks.bandwidth, "rates": dict(peaks.rates), "source": peaks.source},
    }


def device_name(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"CPU {found.group(1) if found else platform.processor() or platform.machine()}"


def gpu_state() -> dict[str, str]:
    """Driver, clocks, power and temperature as nvidia-smi gives them; empty where it is not there."""
    wanted = ["driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu"]
    command = ["nvidia-smi", f"--query-gpu={','.join(wanted)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(wanted, (v.strip() for v in answer.strip().split(",")), strict=False))


def commit() -> str:
    """The short commit of the source tree, with "-dirty" where files differ from it; "" outside a git tree."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def default_path(folder: Path, device: str) -> Path:
    """`folder`/<device>-<commit>.jsonl; with -2, -3 and so on behind, so that no run takes another's place."""
    words = [device_name(device), commit() or convext.__version__]
    stem = "-".join(re.sub(r"[^a-z0-9]+", "-", w.lower()).strip("-") for w in words)
    behind = ("" if i == 1 else f"-{i}" for i in itertools.count(1))
    return next(path for end in behind if not (path := folder / f"{stem}{end}.jsonl").exists())


def latest(folder: Path = FOLDER) -> Path | None:
    """The file in `folder` that was written last."""
    files: Iterable[Path] = folder.glob("*.jsonl")
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
