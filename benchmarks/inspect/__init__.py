"""What the compilers make of the kernels, read from machine code without a GPU, and the times that it predicts."""
