// The stencils' launchers: what csrc/stencil/stencil.cu, which checks the arguments, calls for each dtype.
#pragma once
#include <functional>

#include "shared/epilogue.cuh"

namespace convext {

// Each computes a depthwise problem, channel multiplier and strides as they come. `T` is float, half or bfloat16.

// fprop: source x, result y. dgrad: source y, result x. `bias` may be null.
template <class T>
void stencil(const Problem& p, const View& source, const View& weight, const void* bias, const Ending& ending,
             const View& result, Stream stream);

// Gives a launcher room for float32 partial sums, [splits, k, taps], until its kernels are launched.
using Allocate = std::function<float*(int splits)>;

template <class T>
void stencil_wgrad(const Problem& p, const View& x, const View& y, const Allocate& allocate, const View& result,
                   Stream stream);

// dgrad and wgrad at once, where these taps have such a kernel; else returns false, and nothing was launched. `p` is
// the dgrad.
template <class T>
bool stencil_backward(const Problem& p, const View& y, const View& w, const View& x, const Allocate& allocate,
                      const View& dx, const View& dw, Stream stream);

}  // namespace convext
