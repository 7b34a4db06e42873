"""The C++ kernels of csrc/cpu, as records."""
