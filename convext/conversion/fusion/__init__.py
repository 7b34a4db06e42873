"""A model for inference: norms and activations become part of the convolutions before them.

        x ──> conv ──> norm ──> act ──> y          five passes over y's size
        x ──> conv' (with act at its store) ──> y  one

fuse        what users call: a fused copy of a model
tracing     modules of which torch.fx makes a graph
norms       what a batch norm does in eval mode, folded into a weight
epilogues   what may follow a convolution: activations as modules, functions and methods call them
rewriting   a graph's convolutions, each with what it takes in
layer       a convolution with its epilogue
packed      what is kept for a way to its result: the weight as that wants it
onednn      the way by torch's own fused operator for CPUs, from a weight in oneDNN's blocks
stencil     the way by our own depthwise kernel for CPUs
separable   a depthwise layer and the pointwise one after it in one pass, by our own kernel for CPUs
chosen      the way by whichever kernel is chosen, on GPUs
"""

from convext.conversion.fusion.fuse import fuse
from convext.conversion.fusion.layer import Fused
from convext.conversion.fusion.separable import Separable

__all__ = ["Fused", "Separable", "fuse"]
