"""Pictures of convolutions: wires, receptive fields, overlaps and feature maps, as matplotlib figures or as text.

Each figure is a `matplotlib.figure.Figure`: `figure.savefig("picture.svg")` writes SVG, PNG or PDF by the name. No
display is needed, and matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from convext.analysis import coverage, overlap, paths
from convext.problem import output_size, transposed_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, PALE, HOLE = "#22303c", "#b8c0c8", "#eceff2", "#e4572e"
_TAPS = ("#2e86ab", "#f18f01", "#3b8f5a", "#a23b72", "#6c5b9e", "#8a6f3c", "#5f6f7a")


@dataclass(frozen=True)
class Line:
    """A convolution along one axis. `inputs` is the length that it is given; transposed, `padding` crops the output."""

    inputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False

    @property
    def outputs(self) -> int:
        """Raises ValueError where the kernel does not fit."""
        i, k, s, p, d = ([v] for v in (self.inputs, self.kernel, self.stride, self.padding, self.dilation))
        (size,) = transposed_size(i, k, s, p, p, d, [0]) if self.transposed else output_size(i, k, s, p, p, d)
        if size < 1:
            raise ValueError(f"nothing to draw: the output would have {size} elements")
        return size

    @property
    def wires(self) -> list[tuple[int, int, int]]:
        """(output, tap, input) of every product, from i = o * stride + t * dilation - pad; in padding, too."""
        narrow = self.inputs if self.transposed else self.outputs
        found = []
        for o, t in product(range(narrow), range(self.kernel)):
            i = o * self.stride + t * self.dilation - self.padding
            if not self.transposed:
                found.append((o, t, i))
            elif 0 <= i < self.outputs:
                found.append((i, t, o))
        return sorted(found)

    @property
    def read(self) -> range:
        """The inputs, and the padding before and after them that a tap reads."""
        positions = [i for _, _, i in self.wires]
        return range(min([0, *positions]), max([self.inputs - 1, *positions]) + 1)

    def __str__(self) -> str:
        kind = "transposed convolution" if self.transposed else "convolution"
        return (
            f"{kind}, kernel {self.kernel}, stride {self.stride}, padding {self.padding}, dilation {self.dilation}: "
            f"{self.inputs} inputs, {self.outputs} outputs"
        )


# ------------------------------------------------------------------------------------------------------- as text


def text_of_line(line: Line) -> str:
    """A table for the terminal: one row an output, one column an input, and in it the tap that joins them."""
    wires = {(o, i): t for o, t, i in line.wires}
    head = "".join(f"{i if 0 <= i < line.inputs else '·':>3}" for i in line.read)
    rows = [
        f"{o:>7} │" + "".join(f"{wires.get((o, i), ''):>3}" for i in line.read).rstrip() for o in range(line.outputs)
    ]
    return "\n".join([str(line), "", f" output │{head}   <- input", *rows])


def text_of_stack(kernel: int, dilations: Sequence[int]) -> str:
    """The receptive field of a stack for the terminal: a block where an input is read, a dot where it is not."""
    field = "".join("█" if count else "·" for count in paths(kernel, dilations).tolist())
    found = coverage(kernel, dilations)
    return f"kernel {kernel}, dilations {_listed(dilations)}: {found} = {found.ratio:.4f} read\n\n{field}"


def text_of_overlap(kernel: int, stride: int) -> str:
    """How many inputs meet in each output of a transposed convolution, two periods of it."""
    counts = overlap(kernel, stride)
    verdict = "even" if len(set(counts)) == 1 else "a checkerboard"
    return f"transposed, kernel {kernel}, stride {stride}: {_listed(counts * 2)}, .. inputs meet: {verdict}"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


# ---------------------------------------------------------------------------------------------------- as figures


def figure_of_line(line: Line) -> Figure:
    """Inputs below, outputs above, and a wire for each product, coloured by its tap. Padding is pale and unnumbered."""
    # The denser row has a cell at each integer, and each cell of the other row stands over the middle of its taps.
    middle = line.dilation * (line.kernel - 1) / 2 - line.padding
    dense = range(line.outputs) if line.transposed else line.read
    figure, axes = _canvas(max(0.45 * len(dense) + 1.5, 6), 2.4)

    def place(index: int, is_output: bool) -> float:
        return index if is_output == line.transposed else index * line.stride + middle

    for o, t, i in line.wires:
        axes.plot([place(i, False), place(o, True)], [0, 2], color=_TAPS[t % len(_TAPS)], lw=1.4, zorder=1)
    for i in line.read:
        inside = 0 <= i < line.inputs
        _cell(axes, place(i, False), 0, str(i) if inside else "", INK if inside else GREY, padding=not inside)
    for o in range(line.outputs):
        _cell(axes, place(o, True), 2, str(o), INK)
    left = min(place(0, True), place(line.read[0], False)) - 0.8
    for row, name in ((0, "input"), (2, "output")):
        axes.text(left, row, name, ha="right", va="center", fontsize=8, color=INK)
    for t in range(line.kernel):
        axes.plot([], [], color=_TAPS[t % len(_TAPS)], lw=2, label=f"tap {t}")
    if len(line.read) > line.inputs:
        axes.plot([], [], "o", color=PALE, markeredgecolor=GREY, label="padding: zeros")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    axes.set_title(str(line).replace(": ", "\n"), fontsize=9, color=INK)
    return figure


def figure_of_grid(line: Line) -> Figure:
    """The same convolution on both axes of an image: what the first, the central and the last output read."""
    n = line.outputs
    figure = _figure(9.6, 2.4)
    panels = figure.subplots(1, 6, width_ratios=[len(line.read), n] * 3)
    for column, o in enumerate((0, n // 2, n - 1)):
        left, right = panels[2 * column], panels[2 * column + 1]
        read = {i: t for output, t, i in line.wires if output == o}
        for y, x in product(line.read, repeat=2):
            inside = 0 <= y < line.inputs and 0 <= x < line.inputs
            hit = y in read and x in read
            _square(left, x, y, dashed=not inside, fill=(_TAPS[0] if inside else GREY) if hit else None)
            if hit:
                left.text(x, y, f"{read[y]},{read[x]}", ha="center", va="center", fontsize=5, color="white", zorder=3)
        for y, x in product(range(n), repeat=2):
            _square(right, x, y, fill=_TAPS[1] if (y, x) == (o, o) else None)
        left.set_title("input", fontsize=8, color=INK)
        right.set_title(f"output {o}, {o}", fontsize=8, color=INK)
    for axes in panels:
        _plain(axes)
        axes.set_anchor("N")
        axes.invert_yaxis()
    figure.suptitle(f"{line}, on each axis", fontsize=9, color=INK)
    return figure


def figure_of_stack(kernel: int, dilations: Sequence[int], causal: bool = False) -> Figure:
    """What one output reads through a stack; and, unless it is causal, in how many ways it reads each pixel."""
    count = paths(kernel, dilations)
    width, height = 0.16 * len(count) + 1.5, 0.75 * len(dilations) + 2
    if causal:
        figure = _figure(max(width, 5), height)
        _draw_tree(figure.subplots(), kernel, dilations, causal)
        return figure
    figure = _figure(width + 0.8 * height + 1.5, height)
    tree, image = figure.subplots(1, 2, width_ratios=[width, 0.8 * height])
    _draw_tree(tree, kernel, dilations, causal)
    ways = torch.outer(count.double(), count.double())
    image.imshow(ways.log1p().where(ways > 0, torch.nan), cmap="viridis", interpolation="nearest", vmin=0)
    image.set_xticks([])
    image.set_yticks([])
    image.set_title(f"paths from {len(count)}×{len(count)} pixels, log scale\nwhite: none", fontsize=9, color=INK)
    return figure


def _draw_tree(axes: Axes, kernel: int, dilations: Sequence[int], causal: bool) -> None:
    """The wires that end in one output: the last where causal, else the central one. Holes of the input are rings."""
    field = 1 + sum((kernel - 1) * d for d in dilations)
    reached = {float(field - 1) if causal else (field - 1) / 2}
    for depth, dilation in reversed(list(enumerate(dilations))):
        axes.scatter(range(field), [depth + 1] * field, s=9, color=GREY, zorder=2)
        axes.scatter(list(reached), [depth + 1] * len(reached), s=22, color=INK, zorder=3)
        last = 0 if causal else (kernel - 1) * dilation / 2  # the tap furthest to the right
        wires = [(x, x + last - t * dilation) for x, t in product(reached, range(kernel))]
        for x, source in wires:
            axes.plot([source, x], [depth, depth + 1], color=_TAPS[depth % len(_TAPS)], lw=1, zorder=1)
        reached = {source for _, source in wires}
    holes = set(range(field)) - reached
    axes.scatter(list(reached), [0] * len(reached), s=22, color=INK, zorder=3)
    axes.scatter(list(holes), [0] * len(holes), s=18, facecolors="none", edgecolors=HOLE, zorder=3)
    axes.set_yticks(range(len(dilations) + 1), ["input", *(f"dilation {d}" for d in dilations)], fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"one output reads {coverage(kernel, dilations)} of its receptive field", fontsize=9, color=INK)


def figure_of_overlap(kernel: int, stride: int, inputs: int = 4) -> Figure:
    """How many products meet in each output pixel of a transposed convolution, and of one that `stride` divides."""
    repaired = -(-kernel // stride) * stride
    shown = [kernel] if repaired == kernel else [kernel, repaired]
    figure = _figure(4.2 * len(shown), 4.4)
    for axes, k in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        ones = torch.ones(1, 1, inputs, inputs)
        counts = torch.nn.functional.conv_transpose2d(ones, torch.ones(1, 1, k, k), stride=stride)[0, 0]
        axes.imshow(counts, cmap="YlGnBu", vmin=0, vmax=counts.max().item() * 1.3)
        for (y, x), value in zip(product(range(len(counts)), repeat=2), counts.flatten().int().tolist(), strict=True):
            axes.text(x, y, value, ha="center", va="center", fontsize=7, color="white" if value > 2 else INK)
        axes.set_xticks([])
        axes.set_yticks([])
        verdict = "even inside" if len(set(overlap(k, stride))) == 1 else "checkerboard"
        axes.set_title(f"kernel {k}, stride {stride}: {verdict}", fontsize=9, color=INK)
    figure.suptitle(f"inputs that meet in each output, {inputs}×{inputs} inputs", fontsize=9, color=INK)
    return figure


# --------------------------------------------------------------------------------------------------- feature maps


def image(path: str | Path) -> Tensor:
    """An RGB image file as float [1, 3, H, W] from 0 to 1."""
    _require_matplotlib()
    from matplotlib.image import imread

    pixels = torch.tensor(imread(path))
    if pixels.dim() != 3:
        raise ValueError(f"expected an image with colours, got {tuple(pixels.shape)}")
    scale = 255 if pixels.dtype == torch.uint8 else 1  # PNG files are read as floats
    return pixels[..., :3].movedim(-1, 0)[None].float() / scale


def feature_maps(model: nn.Module, layer: str, sample: Tensor) -> Tensor:
    """The output of the submodule called `layer` while `model` runs on `sample`, detached.

    The output of a convolution is a feature map; that of the activation after it, an activation map.

    Raises:
        AttributeError: the model has no such layer.
        ValueError: the layer did not run.
    """
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    try:
        with torch.no_grad():
            model(sample)
    finally:
        hook.remove()
    if not kept:
        raise ValueError(f"{layer!r} did not run")
    return kept[-1]


def figure_of_features(maps: Tensor, count: int = 8, title: str = "") -> Figure:
    """A sheet of the first `count` of `maps` [C, H, W]; zero is white, and all maps share the scale at the right."""
    shown = maps[:count].float().cpu()
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    height, width = shown.shape[1:]
    figure = _figure(2.2 * columns + 0.8, 2.2 * rows * height / width + 0.5)
    limit = shown.abs().max().item() or 1.0
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels:
        axes.set_axis_off()
    for index, (axes, values) in enumerate(zip(panels, shown, strict=False)):
        drawn = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(f"channel {index}", fontsize=7, color=INK)
    figure.colorbar(drawn, ax=panels.tolist(), shrink=0.8).ax.tick_params(labelsize=7, labelcolor=INK)
    figure.suptitle(title, fontsize=9, color=INK)
    return figure


# -------------------------------------------------------------------------------------------------------- drawing


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'convext[plots]'") from error


def _figure(width: float, height: float) -> Figure:
    _require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.set_axis_off()
    axes.set_aspect("equal")


def _cell(axes: Axes, x: float, y: float, label: str, color: str, padding: bool = False) -> None:
    from matplotlib.patches import Circle

    style: Any = {"facecolor": PALE, "linestyle": "--"} if padding else {"facecolor": "white"}
    axes.add_patch(Circle((x, y), 0.4, edgecolor=color, lw=1.2, zorder=2, **style))
    axes.text(x, y, label, ha="center", va="center", fontsize=8, color=color, zorder=3)


def _square(axes: Axes, x: int, y: int, dashed: bool = False, fill: str | None = None) -> None:
    from matplotlib.patches import Rectangle

    style: Any = ":" if dashed else "-"
    axes.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5), 1, 1, facecolor=fill or "white", edgecolor=GREY if dashed else INK, linestyle=style,
            lw=0.7, zorder=1 if dashed else 2,
        )
    )  # fmt: skip
    axes.update_datalim([(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)])
    axes.autoscale_view()
