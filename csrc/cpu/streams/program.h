// A step of a stream as a list of instructions: what a few samples of a causal model take, in one call.
//
//     inputs  [batch, channels, samples]  -->  arena: instructions, rings of past samples, weights
//     outputs [batch, channels, samples]  <--
//
// In the arena a value of the model is a row of channels for each column, that is for each sample of each of the batch.
// A row ends on a whole vector: what is computed beyond its channels, nobody reads. convext/streams/native/table.py
// writes these structures, whose members have 8 bytes each.
#pragma once
#include "cpu/shared/problem.h"

namespace convext {
namespace cpu {

struct Value {
  float* at;
  int64_t row;  // elements from one column to the next
};

enum class Operation : int64_t { fill, add, subtract, multiply, activate, convolve };

struct Instruction {
  Operation operation;
  int64_t channels;    // of the result
  Value result, a, b;  // b without memory: the first of `scalars` in its place
  double scalars[2];
  int64_t activation;  // an Activation
  // convolve: result[k] = bias[k] + sum over c, t of  weight[k, c, t] * a[c], (taps - 1 - t) * dilation samples ago
  const float *weight, *bias;   // [channels, depth, taps], and null or [channels]
  int64_t groups, depth, taps;  // depth: channels of a in a group
  float* ring;                  // [reach, batch, depth * groups], reach = dilation * (taps - 1)
  int64_t dilation, oldest;     // oldest: its place in the ring, which the next sample takes
};

// A tensor of the caller's beside the value that it is read into, or written from.
struct Port {
  Value value;
  int64_t channels;
  float* tensor;
  int64_t stride[3];  // of batch, channels, samples
};

struct Chunk {
  int64_t batch, samples;
};

struct Program {
  Instruction* instructions;
  int64_t count;
  Port* inputs;
  int64_t input_count;
  Port* outputs;
  int64_t output_count;
  Chunk chunk;     // as many samples as the arena has columns for, or fewer
  float* windows;  // for each column the most of depth * groups * taps
};

using Steps = void (*)(Program& program);

extern const Steps steps_generic, steps_avx2, steps_avx512;

}  // namespace cpu
}  // namespace convext
