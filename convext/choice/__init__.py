"""What decides which kernel computes a problem: the records, settings, and tables of what was measured."""
