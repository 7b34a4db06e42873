"""Trains a dilated segmentation head on a photograph, and shows why its dilations matter.

    python examples/segmentation_head.py [folder for the picture]

Each pixel of a portrait is to be told which of three regions it lies in. Regions come from the colours of the
neighbourhood, so that a pixel alone does not know: the head needs a receptive field, and one without holes. The left
side of the photograph trains, the right side tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from media import photograph
from torch import Tensor, nn

import convext
from convext.analysis import parameters, receptive_field
from convext.analysis.pictures import feature_maps, figure_of_features
from convext.blocks import SegmentationHead
from convext.layers import PointwiseConv2d

CLASSES = 3


def regions(image: Tensor, rounds: int = 10) -> Tensor:
    """Clusters the mean colours of 15x15 neighbourhoods by k-means: [1, 3, H, W] -> int64 [1, H, W]."""
    colours = nn.functional.avg_pool2d(image, 15, 1, 7, count_include_pad=False)[0].flatten(1).T
    order = colours.sum(1).argsort()
    centres = colours[order[torch.linspace(0, len(order) - 1, CLASSES).long()]]
    for _ in range(rounds):
        nearest = torch.cdist(colours, centres).argmin(1)
        centres = torch.stack([colours[nearest == c].mean(0) for c in range(CLASSES)])
    return nearest.view(1, *image.shape[2:])


def network(dilations: tuple[int, ...]) -> nn.Module:
    """A head straight on the pixels, and a 1x1 classifier."""
    return nn.Sequential(SegmentationHead(3, (24, 24, 24), dilations), PointwiseConv2d(24, CLASSES))


def accuracy(model: nn.Module, image: Tensor, labels: Tensor) -> float:
    """Share of pixels in the right region."""
    with torch.no_grad():
        return (model(image).argmax(1) == labels).float().mean().item()


def main(folder: Path) -> None:
    torch.manual_seed(0)
    image = photograph()
    labels, middle = regions(image), image.shape[-1] // 2

    # The usual dilations of such a head, 2, 4, 8, leave holes on raw pixels. Lint says so before an hour of training.
    sample = torch.randn(1, 3, 40, 40)
    for finding in convext.lint(network((2, 4, 8)), sample):
        print(finding)
    model = network((1, 2, 5))
    assert not convext.lint(model, sample)
    print(f"with dilations 1, 2, 5: receptive field {receptive_field(model)}, {parameters(model)} parameters")

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    before = accuracy(model, image[..., middle:], labels[..., middle:])
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(image[..., :middle]), labels[..., :middle])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = accuracy(model, image[..., middle:], labels[..., middle:])
    print(f"right in {before:.1%} of unseen pixels before training, in {after:.1%} after")

    maps = feature_maps(model, "0.0", image)[0]
    figure_of_features(maps, title="feature maps of the first layer").savefig(folder / "feature_maps.png")
    draw(image, labels, model, folder / "segmentation.png")


def draw(image: Tensor, labels: Tensor, model: nn.Module, path: Path) -> None:
    """The photograph, its regions, and what the model makes of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    predicted = model(image).argmax(1)[0]
    panels = figure.subplots(1, 3)
    for axes, picture, title in zip(
        panels,
        (image[0].movedim(0, -1), labels[0], predicted),
        ("photograph", "regions", "predicted; the right half was not seen"),
        strict=True,
    ):
        axes.imshow(picture)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    for axes in panels[1:]:
        axes.axvline(image.shape[-1] // 2, color="white", lw=1, ls="--")
    figure.savefig(path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
