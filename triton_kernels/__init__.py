"""Triton kernels. Installed as convext.triton_kernels; imports no policy.

A folder is a family: `record.py` says what it takes and runs it, `plan.py` or `tiles.py` how large its tiles are,
`launch.py` what is launched, `image.py` holds the kernels of fprop and dgrad, `weight.py` those of wgrad, and
`specimens.py` what benchmarks/inspect compiles. What families share lies beside them.
"""
