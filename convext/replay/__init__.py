"""A call's first run is written down; what follows does the same to other tensors that lie alike.

A run of a record of ours allocates, copies and launches, and what of this depends on how its operands lie alone: on
shapes, strides, dtype, device and whether they begin at multiples of 16 bytes. So there is nothing to decide in the
next call with these, nor for a launcher to check, to bind and to find:

    first call    run(a, b, bias)                          every ATen operator and launch is noted on a tape (tape.py)
    from then on  def replay(stream, t0, t1, t2):          a function that was made of it (replay.py)
                      t3 = empty_strided(..)               what was allocated
                      launch(.., stream, .., t0, ..)       a launch that is bound to all but its tensors

An operator that is not known to repeat leaves the tape incomplete, and the call as it was. How a launch is bound is its
provider's: `convext.triton_kernels.bound`, `convext.providers.cuda.launches`.
"""
