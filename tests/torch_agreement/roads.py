"""By which backends a sample of torch's goes through convext."""

import torch

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def roads(name: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The backends of a function or layer in a dtype: Triton by name where it computes that dtype.

    Through Triton's interpreter, which multiplies the bits of bfloat16 and takes a minute for the samples of one 3-D
    function, only float64 in one and two dimensions.
    """
    interpreted = not torch.cuda.is_available()
    taken = (dtype is torch.float64 and "3d" not in name) if interpreted else dtype in FLOATS
    return ("auto", "aten", "triton") if taken else ("auto", "aten")
