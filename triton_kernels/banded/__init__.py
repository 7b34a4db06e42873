"""Depthwise convolutions as products with banded matrices, on tensor cores."""
