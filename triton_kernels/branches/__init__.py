"""Parallel convolutions of one input, each into its channels of the concatenation."""
