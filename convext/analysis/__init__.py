"""What a convolution, or a network of them, does: shapes, costs, receptive fields, holes, and what it is equal to."""

from convext.analysis.costs import flops, output_shape, parameters
from convext.analysis.equivalences import (
    Equivalence,
    dilated_as_dense,
    fold_batchnorm,
    linear_as_convolution,
    linear_as_pointwise,
    pointwise_as_linear,
    separate,
    transposed_as_gradient,
)
from convext.analysis.geometry import Coverage, coverage, dead_taps, dense_kernel, hdc, overlap, paths
from convext.analysis.pitfalls import Finding, lint
from convext.analysis.receptive import dependence, reads, receptive_field

__all__ = [
    "Coverage",
    "Equivalence",
    "Finding",
    "coverage",
    "dead_taps",
    "dense_kernel",
    "dependence",
    "dilated_as_dense",
    "flops",
    "fold_batchnorm",
    "hdc",
    "linear_as_convolution",
    "linear_as_pointwise",
    "lint",
    "output_shape",
    "overlap",
    "parameters",
    "paths",
    "pointwise_as_linear",
    "reads",
    "receptive_field",
    "separate",
    "transposed_as_gradient",
]
