"""What a function does to time, by its name: a model's forward is read with these before any sample comes.

A rule takes the place and the function's own arguments, with a Signal for a tensor that has a time; it adds what
computes one chunk to the program of a step, and returns the Signal of that, or refuses.

table    the rules, by name
each     functions of each sample by itself; layers that are such in evaluation mode
axes     functions along other axes than time, and what moves axes
cuts     parts and paddings of time
windows  convolutions, pools, upsamplers
whole    what is refused, and why
"""

from convext.streams.rules import axes, cuts, each, windows  # noqa: F401  they fill the table
from convext.streams.rules.each import module
from convext.streams.rules.table import RULES
from convext.streams.rules.whole import unknown

__all__ = ["RULES", "module", "unknown"]
