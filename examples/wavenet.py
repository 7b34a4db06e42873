"""Teaches a small WaveNet the sound of a bell, and lets it go on by itself.

    python examples/wavenet.py [folder for the sound and the picture]

Sound is a sequence of samples, each one of 64 levels on the logarithmic mu-law scale. The network predicts the level of
the next sample from those before it. Because no output reads its future, one pass trains all positions at once; to
generate, its own prediction is the next sample of a stream, which remembers of the past what its layers still read.
In training the past is shaken by up to two levels: a model that has only seen clean pasts is lost at its first error.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from media import sound, write_sound
from torch import Tensor, nn

import convext
from convext.analysis import parameters
from convext.blocks import WaveNetStack
from convext.layers import PointwiseConv1d

LEVELS, RATE = 64, 2000


def encode(samples: Tensor) -> Tensor:
    """mu-law: float from -1 to 1 -> level, int64 from 0 to LEVELS - 1."""
    mu = LEVELS - 1
    compressed = samples.sign() * (mu * samples.abs()).log1p() / math.log1p(mu)
    return ((compressed + 1) / 2 * mu).round().long()


def decode(levels: Tensor) -> Tensor:
    """The sample in the middle of each level: int64 -> float from -1 to 1."""
    mu = LEVELS - 1
    compressed = 2 * levels / mu - 1
    return compressed.sign() * ((compressed.abs() * math.log1p(mu)).exp() - 1) / mu


class WaveNet(nn.Module):
    """One-hot levels [N, LEVELS, L] -> logits of the next level at every position, [N, LEVELS, L]."""

    def __init__(self, channels: int = 32, layers: int = 12, cycle: int = 6) -> None:
        super().__init__()
        self.first = PointwiseConv1d(LEVELS, channels)
        self.stack = WaveNetStack(channels, layers, cycle)
        self.last = nn.Sequential(nn.ReLU(), PointwiseConv1d(channels, LEVELS))

    def forward(self, one_hot: Tensor) -> Tensor:
        return self.last(self.stack(self.first(one_hot)))


def one_hot(levels: Tensor) -> Tensor:
    """[N, L] -> [N, LEVELS, L]."""
    return nn.functional.one_hot(levels, LEVELS).movedim(-1, 1).float()


@torch.no_grad()
def generate(model: WaveNet, start: Tensor, count: int) -> Tensor:
    """`count` levels after `start` [L], each drawn from the model's prediction at a low temperature."""
    stream, chunk, made = convext.streaming(model), start[None], []
    for _ in range(count):
        logits = stream.step(one_hot(chunk))[..., -1]
        chunk = torch.multinomial((logits / 0.5).softmax(1), 1)
        made.append(chunk)
    return torch.cat(made, dim=1)[0]


def main(folder: Path) -> None:
    torch.manual_seed(0)
    levels = encode(sound(RATE))
    model = WaveNet()
    assert not convext.lint(model, torch.randn(1, LEVELS, 300))  # among others: no layer reads its future
    print(f"{parameters(model)} parameters, receptive field {model.stack.receptive_field} samples")

    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(120):
        begin = torch.randint(len(levels) - 600, (3,)).tolist()
        crops = torch.stack([levels[b : b + 600] for b in begin])
        past, following = crops[:, :-1], crops[:, 1:]
        shaken = (past + torch.randint(-2, 3, past.shape)).clamp(0, LEVELS - 1)
        loss = nn.functional.cross_entropy(model(one_hot(shaken)), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"{losses[0] / math.log(2):.2f} bits a sample before training, {losses[-1] / math.log(2):.2f} after")

    start = levels[400:800]
    made = torch.cat([start, generate(model, start, 600)])
    write_sound(folder / "wavenet.wav", decode(made), RATE)
    draw(decode(levels[400:1400]), decode(made), len(start), folder / "wavenet.png")


def draw(real: Tensor, made: Tensor, start: int, path: Path) -> None:
    """The recording above; below, its beginning and what the model goes on with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    above.plot(real, lw=0.6, color="#2e86ab")
    above.set_title("recording", fontsize=9)
    below.plot(range(start), made[:start], lw=0.6, color="#2e86ab")
    below.plot(range(start, len(made)), made[start:], lw=0.6, color="#e4572e")
    below.set_title("the first 400 samples of it, then generated", fontsize=9)
    figure.savefig(path, dpi=120)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
