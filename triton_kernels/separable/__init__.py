"""Depthwise, then pointwise convolutions of images, in one pass."""
