"""Layers of real networks, and the runner that times them. Installed as convext.benchmarks."""
