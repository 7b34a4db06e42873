"""Causal convolutions with an epilogue: the stencil's rows of columns, with states and sequences.

walk.py       which lane computes what; the columns that taps read
forward.py    y
backward.py   the gradients by x, weight and bias in one walk
update.py     a step from element to element
launch.py     from tensors to launches
specimens.py  what benchmarks/inspect compiles
"""
