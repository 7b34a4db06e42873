"""Passes over memory beside a kernel's own: copies into another memory format, sums of parts, a bias's gradient."""
