// A WaveNet's gated block, as the kernels see it: tensors are dense, numbers float32.
//
//     f, g = bias + sum over c, t of  weight[k, c, t] * x[c, l - (taps - 1 - t) * dilation]      k < inner: f, else g
//     z    = mix_bias + mix * (tanh(f) * sigmoid(g))
//     next = x + z,    skip = z, or total + z
//
// A job is one block of time of one signal; jobs depend on the problem alone.
#pragma once
#include "cpu/shared/problem.h"

namespace convext {
namespace cpu {

struct GatedCall {
  int64_t batch, channels, inner, length, taps, dilation;
  const float *x, *weight, *bias, *mix, *mix_bias, *total;  // biases and total: null for zeros
  float *next, *skip;
};

struct GatedWork {
  int64_t jobs, scratch_bytes;  // of one thread
};

struct GatedKernels {
  GatedWork (*work)(const GatedCall&);
  void (*run)(const GatedCall&, int64_t first_job, int64_t last_job, void* scratch);
};

extern const GatedKernels gated_generic, gated_avx2, gated_avx512;

}  // namespace cpu
}  // namespace convext
