"""A real photograph and a real sound, from packages that ship one: `pip install 'convext[examples]'`."""

from __future__ import annotations

import importlib.util
import sys
import wave
from pathlib import Path

import torch
from torch import Tensor

from convext.analysis.pictures import image


def photograph(height: int = 120) -> Tensor:
    """The portrait of Grace Hopper that matplotlib ships: float [1, 3, height, width], from 0 to 1."""
    import matplotlib

    pixels = image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    width = round(height * pixels.shape[-1] / pixels.shape[-2])
    return torch.nn.functional.interpolate(pixels, (height, width), mode="area")


def sound(rate: int = 8000) -> Tensor:
    """The bell that the package chime rings for a warning: float [samples] from -1 to 1, `rate` a second."""
    found = importlib.util.find_spec("chime")
    if found is None or found.origin is None:
        sys.exit("no sound: pip install 'convext[examples]'")
    with wave.open(str(Path(found.origin).parent / "themes" / "chime" / "warning.wav")) as file:
        frames = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
        mono = frames.view(-1, file.getnchannels()).float().mean(1)
        size = round(len(mono) * rate / file.getframerate())
    mono = torch.nn.functional.interpolate(mono[None, None], size, mode="area")[0, 0]
    return mono / mono.abs().max()


def write_sound(path: Path, samples: Tensor, rate: int = 8000) -> None:
    """Writes float samples from -1 to 1 as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clamp(-1, 1) * 32767).short().numpy().tobytes())
