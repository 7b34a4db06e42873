"""Kernels for CPUs: compiled ones, ways to use torch's own operators better, and when either is worth it."""
