"""A stack of causal 1-D convolutions as steps over chunks of a signal, with a state.

stream    what users hold: step, reset, state
program   reads the model's forward node by node, and makes of it the program of a step
tracing   the forward as a graph, by torch.fx
rules/    what each function does to time; what is refused, and why
signals   what is known of a tensor before any sample has come
place     one node of the graph, as a rule meets it
stages    what remembers something from chunk to chunk
past      the last samples of a signal, in a ring
"""

from convext.streams.stream import Stream, streaming

__all__ = ["Stream", "streaming"]
