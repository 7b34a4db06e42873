// The stencils' launchers: what csrc/stencil.cu, which checks the arguments, calls for each dtype.
#pragma once
#include "launch.h"
#include "problem.h"

namespace convext {

// Each computes a depthwise problem, channel multiplier and strides as they come. `T` is float, half or bfloat16.

// fprop: source x, result y. dgrad: source y, result x. `bias` may be null.
template <class T>
void stencil(const Problem& p, const View& source, const View& weight, const void* bias, const View& result,
             Stream stream);

// The float32 partial sums that `stencil_wgrad` needs: this many, each [k, taps].
int stencil_wgrad_splits(const Problem& p);

template <class T>
void stencil_wgrad(const Problem& p, const View& x, const View& y, float* partial, const View& result, Stream stream);

}  // namespace convext
