// A depthwise convolution and the pointwise one of its result, as the kernels see them, and what one instruction set
// offers for them. In float32, of tensors whose channels are innermost.
//
//     t[n, c, o] = first(depthwise(x, w) + bias)        y[n, k, o] = second(sum over c of  t[n, c, o] * v[k, c] + bias)
//                                                                    + residual
#pragma once
#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {

struct SeparableCall {
  Call depthwise;  // its result has no data: a block of t at a time lies in scratch
  Call pointwise;  // b: v as the pointwise kernels' `pack` lays it out
};

struct SeparableKernels {
  int64_t lanes;                                                   // of a vector: the least number of channels of x
  Work (*work)(const SeparableCall&);                              // prepared: what `prepare` writes
  void (*prepare)(const SeparableCall&, int64_t c, int64_t last);  // of the depthwise convolution
  void (*run)(const SeparableCall&, int64_t first_job, int64_t last_job, void* scratch);
};

extern const SeparableKernels separable_generic, separable_avx2, separable_avx512;

}  // namespace cpu
}  // namespace convext
