"""Short causal convolutions with an activation behind them, and the states by which they go on from token to token.

    z[b, c, l] = bias[c] + sum over t of  w[c, t] * x[b, c, l - (W - 1 - t) * dilation]
    y[b, c, l] = activation(z[b, c, l]) + residual[b, c, l]

It is the fprop of a depthwise 1-D convolution with its padding at the beginning, and an epilogue. What lies before a
sequence's first element are zeros, or a state: the last S = (W - 1) * dilation elements of what came before.

    arguments.py     what is a mistake
    sequences.py     where sequences begin, in padded and packed batches; final states
    composition.py   forward, backward and update in torch's operators: for every device and order of derivative
    native.py        the same by the compiled kernels for CPUs (csrc/cpu/causal/)
    choice.py        which of these, or Triton's (triton_kernels/causal), computes a call
    ops.py           the operators: schema, fake, autograd, vmap
    layer.py         ShortConvolution
    stand_in.py      the module `causal_conv1d` for packages that import it
    reference.py     straight from the definition, for tests
"""
