"""What tests compile: each file once for its content and command, in whatever process it is asked for first."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def made(result: Path, command: Sequence[object]) -> Path:
    """The file that a compiler makes, if it is not there yet.

    Whoever asks for it meanwhile waits: pytest's workers would compile it side by side, for minutes.

    Raises:
        RuntimeError: with the compiler's output, where it fails.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(result.with_suffix(".lock")):
        if not result.exists():
            partial = result.with_suffix(f".partial{result.suffix}")
            words = [str(part) for part in (*command, "-o", partial)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
            partial.rename(result)  # whole or not there
    return result
