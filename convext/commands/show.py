"""`python -m convext show`: draws a convolution in the terminal, or with `--out` as SVG or PNG.

show conv --kernel 3 --stride 2 --padding 1 --input 7          which inputs feed which outputs
show conv --transposed --kernel 3 --stride 2 --input 4
show conv --rank 2 --dilation 2 --input 7 --out dilated.svg    on both axes of an image (files only)
show stack --kernel 3 --dilations 2 2 2 2                      the receptive field of a stack, and its holes
show overlap --kernel 3 --stride 2                             how many inputs meet in each transposed output
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from convext.analysis import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument("picture", nargs="?", default="conv", choices=["conv", "stack", "overlap", "features"])
    parser.add_argument("--input", type=int, default=7, metavar="N", help="length of the input (7)")
    parser.add_argument("--kernel", type=int, default=3, metavar="N", help="kernel size (3)")
    parser.add_argument("--stride", type=int, metavar="N", help="stride (1; for overlap 2)")
    parser.add_argument("--padding", type=int, default=0, metavar="N", help="padding on both sides (0)")
    parser.add_argument("--dilation", type=int, default=1, metavar="N", help="dilation (1)")
    parser.add_argument("--transposed", action="store_true", help="draw the transposed convolution")
    parser.add_argument("--rank", type=int, default=1, choices=[1, 2], help="along a line, or on an image (1)")
    parser.add_argument("--dilations", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="of the stack")
    parser.add_argument("--causal", action="store_true", help="draw the stack as a causal one")
    parser.add_argument("--image", metavar="FILE", help="an RGB image, for features")
    parser.add_argument(
        "--model", default="convext.blocks:NetworkInNetwork", metavar="MODULE:NAME", help="for features"
    )
    parser.add_argument("--layer", default="0", metavar="NAME", help="the layer of it (0)")
    parser.add_argument("--out", metavar="FILE", help="write a picture, .svg, .png or .pdf, instead of text")


def main(args: argparse.Namespace) -> int:
    """Draws the picture. Returns 0, or 2 where there is nothing to draw."""
    stride = args.stride or (2 if args.picture == "overlap" else 1)
    sizes = (args.input, args.kernel, stride, args.dilation, *args.dilations)
    if min(sizes) < 1 or args.padding < 0:
        print("sizes, strides and dilations are at least 1, padding at least 0", file=sys.stderr)
        return 2
    line = pictures.Line(args.input, args.kernel, stride, args.padding, args.dilation, args.transposed)
    try:
        if args.out is None:
            print(_text(args, line))
        elif not Path(args.out).suffix:
            raise ValueError(f"--out {args.out} names no format: end it in .svg, .png or .pdf")
        else:
            _figure(args, line).savefig(args.out)
            print(args.out)
    except (ImportError, ValueError, AttributeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _text(args: argparse.Namespace, line: pictures.Line) -> str:
    if args.picture == "stack":
        return pictures.text_of_stack(args.kernel, args.dilations)
    if args.picture == "overlap":
        return pictures.text_of_overlap(args.kernel, line.stride)
    if args.picture == "features" or args.rank == 2:
        raise ValueError("an image is drawn to a file: add --out picture.png")
    return pictures.text_of_line(line)


def _figure(args: argparse.Namespace, line: pictures.Line) -> Figure:
    if args.picture == "stack":
        return pictures.figure_of_stack(args.kernel, args.dilations, args.causal)
    if args.picture == "overlap":
        return pictures.figure_of_overlap(args.kernel, line.stride)
    if args.picture == "features":
        return _features(args)
    return pictures.figure_of_grid(line) if args.rank == 2 else pictures.figure_of_line(line)


def _features(args: argparse.Namespace) -> Figure:
    """The feature maps of an untrained model's layer, for `--image`."""
    if args.image is None:
        raise ValueError("features of which image? add --image photo.jpg")
    module, _, name = args.model.partition(":")
    model = getattr(import_module(module), name)().eval()
    maps = pictures.feature_maps(model, args.layer, pictures.image(args.image))
    return pictures.figure_of_features(maps[0], title=f"{args.model}, layer {args.layer}")
