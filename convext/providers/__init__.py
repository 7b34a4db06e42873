"""Who computes: torch, and what stands between a record and compiled code. Triton's kernels are `triton_kernels/`.

A module of a provider exports `why_not`, `run` and `copies` (docs/design.md, "A kernel is a record").
"""
