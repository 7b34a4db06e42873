// A pointwise convolution as the kernels see it, and what one instruction set offers for it. In float32, of tensors
// whose channels are innermost.
//
//     y[n, k, o] = epilogue(sum over c of  x[n, c, o * stride] * v[k, c] + bias[k] + residual[n, k, o])
#pragma once
#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {

struct PointwiseCall {
  Call product;          // b: v as `pack` lays it out; it has no residual, which would come after the activation
  const void* residual;  // as the result lies, or null
};

struct PointwiseKernels {
  int64_t lanes;                                                 // of a vector
  void (*pack)(const View& v, int64_t k, int64_t c, float* to);  // [vectors of k][c][lanes]
  int64_t (*jobs)(const PointwiseCall&);                         // they need no scratch
  void (*run)(const PointwiseCall&, int64_t first_job, int64_t last_job);
};

extern const PointwiseKernels pointwise_generic, pointwise_avx2, pointwise_avx512;

}  // namespace cpu
}  // namespace convext
