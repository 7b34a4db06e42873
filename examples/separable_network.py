"""Swaps the convolutions of a separable denoiser for convext's, and folds its norms away.

    python examples/separable_network.py [folder for the picture]

The network is written with `torch.nn` alone. `convext.convert` gives its layers new classes: the parameters, the
optimizer that holds them, hooks and the state_dict stay, and `convext.revert` puts everything back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from media import photograph
from torch import Tensor, nn

import convext
from convext.analysis import flops, fold_batchnorm, parameters


def separable(a: int, b: int) -> list[nn.Module]:
    """A 3x3 convolution in two steps, a norm and a ReLU."""
    return [nn.Conv2d(a, a, 3, padding=1, groups=a), nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU()]


def dense(a: int, b: int) -> list[nn.Module]:
    """The same in one step."""
    return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]


class Denoiser(nn.Module):
    """Predicts the noise of an image, and takes it away: [N, 3, H, W] -> [N, 3, H, W]."""

    def __init__(self, block: Callable[[int, int], list[nn.Module]] = separable) -> None:
        super().__init__()
        self.noise = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *block(32, 32), *block(32, 32), nn.Conv2d(32, 3, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return image - self.noise(image)


def without_norms(layers: nn.Sequential) -> nn.Sequential:
    """Folds each batch norm into the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            equivalence = fold_batchnorm(folded[-1], layer)
            print(f"  a norm folded away, largest difference {equivalence.error:.1e}")
            folded[-1] = equivalence.module
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    clean = photograph()
    noisy = clean + 0.15 * torch.randn_like(clean)

    model = Denoiser()
    for name, network in (("separable", model), ("dense", Denoiser(dense))):
        print(f"{name}: {parameters(network)} parameters, {flops(network, clean.shape) / 1e6:.0f} MFLOP")

    before = model(noisy)
    model = convext.convert(model)
    print(convext.report(model))
    torch.testing.assert_close(model(noisy), before)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = nn.functional.mse_loss(model(clean + 0.15 * torch.randn_like(clean)), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        denoised = model(noisy)
        print(f"signal to noise: {decibels(noisy, clean):.1f} dB, denoised {decibels(denoised, clean):.1f} dB")
        model.noise = without_norms(model.noise)
        torch.testing.assert_close(model(noisy), denoised, atol=1e-4, rtol=1e-4)

    draw(noisy, denoised, clean, folder / "denoised.png")


def decibels(image: Tensor, clean: Tensor) -> float:
    """Peak signal to noise ratio."""
    return -10 * (image - clean).square().mean().log10().item()


def draw(noisy: Tensor, denoised: Tensor, clean: Tensor, path: Path) -> None:
    """The noisy, the denoised and the clean image side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    shown = zip(figure.subplots(1, 3), (noisy, denoised, clean), ("noisy", "denoised", "clean"), strict=True)
    for axes, image, title in shown:
        axes.imshow(image[0].clamp(0, 1).movedim(0, -1))
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
