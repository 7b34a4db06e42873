"""The CUDA C++ kernels of csrc/stencil and csrc/igemm, as records, and the sums of csrc/passes."""
