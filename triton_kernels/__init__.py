"""Triton kernels, their launchers and tile tables. Installed as convext.triton_kernels; imports no policy."""
