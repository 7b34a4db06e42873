// What one instruction set offers. A face is cut into jobs that depend on the problem alone, so that any number of
// threads gives the same bits; a thread brings its own scratch.
#pragma once
#include "cpu/shared/problem.h"

namespace convext {
namespace cpu {

struct Call {
  Problem problem;
  View a, b, result;     // the face's operands, (x, w), (y, w) or (x, y), and the tensor that it leaves open
  const void* bias;      // contiguous, or null
  Epilogue epilogue;     // fprop, dgrad: result = epilogue(sum + bias) + residual
  const void* residual;  // as the result lies, or null
  void* prepared;        // fprop, dgrad: weights and bias in the order in which they are read; wgrad: its partial sums
  bool continues;        // another part of the same convolution came before: `prepared` is filled
  bool may_be_rows;      // fprop, dgrad: rows of it may be summed as they lie (rows.h)
};

struct Work {
  int64_t jobs;
  int64_t scratch_bytes;   // of one thread
  int64_t prepared_bytes;  // of all
  int64_t packed;          // elements that all jobs copy, with the zeros beside them
};

struct Kernels {
  const char* isa;
  Work (*work)(const Call&);                                                     // of the call's problem and strides
  void (*prepare)(const Call&, int64_t first_group, int64_t last_group);         // fprop, dgrad: before the jobs
  void (*run)(const Call&, int64_t first_job, int64_t last_job, void* scratch);  // jobs first to last - 1
  void (*finish)(const Call&, int64_t first_channel, int64_t last_channel);      // wgrad: after the jobs, channels of y
};

// A table for each instruction set that this library was compiled for, and for which the machine has to have it.
extern const Kernels kernels_generic, kernels_avx2, kernels_avx512;

}  // namespace cpu
}  // namespace convext
