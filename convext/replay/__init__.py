"""A call's first run is written down; what follows does the same to other tensors that lie alike.

A run of a record of ours allocates, copies and launches, and what of this depends on how its operands lie alone: on
shapes, strides, dtype, device and whether they begin at multiples of 16 bytes. So there is nothing to decide in the
next call with these, nor for a launcher to check, to bind and to find:

    first call    run(a, b, bias)                          every ATen operator and launch is noted on a tape (tape.py)
    from then on  slots = [a, b, bias, ...]                one list of tensors (replay.py)
                  slots[3] = empty_strided(..)             what was allocated
                  launch(slots, stream)                    a launch that is bound to all but them

An operator that is not known to repeat leaves the tape incomplete, and the call as it was. How a launch is bound is its
provider's: `convext.triton_kernels.bound`, `convext.providers.cuda.native`.
"""
