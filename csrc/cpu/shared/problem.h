// One face of one convolution on a CPU, as the kernels see it: the C++ side of convext.problem.ConvProblem.
//
//     i = o * stride + t * dilation - pad            (input index, output index, tap)
//     T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]
//
// Kernel files include no header of torch's or of the standard library but stdint.h: each is compiled once for each
// instruction set, and an inline function that two of them share could be linked from the wider one.
#pragma once
#include <stdint.h>

namespace convext {
namespace cpu {

enum class Face { fprop, dgrad, wgrad };
enum class Number { float32, float64, float16, bfloat16 };
// In the order of convext.problem.epilogue.NAMES; the first four are its ACTIVATIONS.
enum class Activation {
  identity,
  silu,
  gelu,
  relu,
  leaky_relu,
  clamp,
  hardswish,
  hardsigmoid,
  gelu_tanh,
  sigmoid,
  tanh
};
constexpr int64_t ACTIVATIONS = 11;

// An activation and its numbers: the slope of leaky_relu; the least and the greatest value of clamp.
struct Epilogue {
  Activation activation;
  double scalars[2];
};

constexpr int AXES = 3;  // depth, height, width; absent ones come first, with size 1, one tap and stride 1

struct Problem {
  Face face;
  Number number;
  int64_t n, c, k, groups;
  int64_t input[AXES], kernel[AXES], output[AXES];  // spatial sizes of x, w and y
  int64_t stride[AXES], pad[AXES], dilation[AXES];  // pad: zeros before the axis
};

// A tensor of any strides, in elements: [n, c, depth, height, width], for w [k, c / groups, depth, height, width].
struct View {
  void* data;
  int64_t stride[2 + AXES];
};

}  // namespace cpu
}  // namespace convext
