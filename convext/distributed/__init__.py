"""Convolutions of tensors that lie on several ranks, on torch.distributed and its DTensors.

    mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("data", "space"))
    model = convext.distributed.parallelize(model, mesh, [BatchParallel(), SpatialParallel(0)])

Imported at first use, for it imports torch.distributed.tensor.
"""

from convext.distributed.explanation import explain
from convext.distributed.halos.intervals import share
from convext.distributed.model import assemble, parallelize
from convext.distributed.plans import BatchParallel, ChannelParallel, SpatialParallel

__all__ = ["BatchParallel", "ChannelParallel", "SpatialParallel", "assemble", "explain", "parallelize", "share"]
