// Causal convolutions as the kernels see them, and what one instruction set offers for them.
//
//     z[c, l] = bias[c] + sum over t of  w[c, t] * x[c, l - (taps - 1 - t) * dilation]        y = activation(z) +
//     residual
//
// A batch is a list of sequences, which padded and packed batches are cut into before a kernel sees them. A job is one
// block of channels of one sequence (forward), or of one share of them (backward); jobs depend on the problem alone.
#pragma once
#include "cpu/shared/problem.h"

namespace convext {
namespace cpu {

// Positions `begin` to `end` - 1 of a row.
struct Sequence {
  int64_t row, begin, end;
  int64_t state;  // the row of its state; ZEROS: nothing comes before it; PADDING: its results are zeros
};
constexpr int64_t ZEROS = -1, PADDING = -2;

// A tensor [row, channel, position] of any strides, in elements. Without data: absent.
struct Rows {
  void* data;
  int64_t stride[3];
};

struct CausalProblem {
  Number number;  // of all tensors but weight and bias
  Activation activation;
  int64_t channels, taps, dilation;
  bool channels_innermost;  // what vectors run along in x, y and their gradients
};

// A matrix [channel, tap] and a vector [channel], of any dtype and strides.
struct Weights {
  Number number, bias_number;
  const void *data, *bias;  // bias: null for zeros
  int64_t stride[2], bias_stride;
};

struct CausalCall {
  CausalProblem problem;
  const Sequence* sequences;
  int64_t count;
  Rows x, states;
  Rows y, residual;            // forward
  Rows grad, by_x, by_states;  // backward: given the gradient by y
  Weights weights;
  void* prepared;  // weights and bias as they are read, [taps + 1][channels, a multiple of a vector]
  void* sums;      // backward: of each share, the gradients by weights and bias, [channels][taps + 1]
};

struct CausalWork {
  int64_t jobs, shares;    // forward: one share
  int64_t scratch_bytes;   // of one thread
  int64_t prepared_bytes;  // of all
};

// A step from element to element, with the state of what came before, which is written.
struct UpdateCall {
  CausalProblem problem;
  int64_t batch, length, state_length;
  Rows x, state, y;
  const int64_t *rows,
      *seen;  // of each sequence: its state's row, PADDING for none; elements before. seen null: no ring
  Weights weights;
};

struct CausalKernels {
  CausalWork (*work)(const CausalCall&, bool backward);
  void (*prepare)(const CausalCall&);
  void (*forward)(const CausalCall&, int64_t first_job, int64_t last_job, void* scratch);
  void (*backward)(const CausalCall&, int64_t first_job, int64_t last_job, void* scratch);
  void (*finish)(const CausalCall&, int64_t shares);  // adds the shares of `sums`, in order, to the first
  void (*update)(const UpdateCall&, int64_t first_channel, int64_t last_channel);
};

extern const CausalKernels causal_generic, causal_avx2, causal_avx512;

}  // namespace cpu
}  // namespace convext
