"""A model's convolutions become convext's: its layers for good, or for a while every call of torch's functions.

swap        convert and revert: a layer gets another class
log         what was changed, what stays torch's, and why
reasons     why a layer stays torch's, with the remedy
calls       which of torch's convolutions a forward calls itself, read from its code
everywhere  a function mode, for code that calls them
fusion      for inference: norms and activations become part of the convolutions beside them
"""

from convext.conversion.everywhere import everywhere
from convext.conversion.log import Change, Report, report
from convext.conversion.swap import convert, revert

__all__ = ["Change", "Report", "convert", "everywhere", "report", "revert"]
