"""Halos: which rows of an axis each rank reads and who holds them, the messages, and the windows that they fill."""
