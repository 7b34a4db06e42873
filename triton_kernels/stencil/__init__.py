"""Depthwise convolutions, a few rows of one channel a program."""
