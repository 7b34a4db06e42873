"""A step of a float32 stream on a CPU as one call of the compiled library (csrc/cpu/streams/).

lower    the program of a step, node by node, becomes instructions on values in an arena
table    instructions, ports and the program as the library reads them
step     runs steps by it, whenever nothing else wants to see them
"""

from convext.streams.native.step import Direct, direct

__all__ = ["Direct", "direct"]
