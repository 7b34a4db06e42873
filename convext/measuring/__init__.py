"""Timing by turns, what a set of timings says, and what a conversion is worth to the layers of a model."""
