// One face of one convolution, as the kernels see it: the C++ side of convext.problem.ConvProblem.
//
//     i = o * stride + t * dilation - pad            (input index, output index, tap)
//     T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]
//
// Every problem has three spatial axes: depth, height, width. A problem of one or two axes has size 1 and one tap on
// the others; there stride and dilation mean nothing, so they repeat the last axis's, and "stride 2" is one question.
#pragma once
#include <cstdint>

namespace convext {

enum class Face : int { fprop = 0, dgrad = 1, wgrad = 2 };

constexpr int AXES = 3;  // depth, height, width

struct Problem {
  Face face;
  int n, c, k, groups;
  int input[AXES], kernel[AXES], output[AXES];  // spatial sizes of x, w and y
  int stride[AXES], pad[AXES], dilation[AXES];  // pad: zeros before the axis
};

// A tensor of any strides, in elements: [n, c, depth, height, width], for w [k, c / groups, depth, height, width].
struct View {
  void* data;
  int64_t stride[2 + AXES];
};

inline int taps(const Problem& p) {
  return p.kernel[0] * p.kernel[1] * p.kernel[2];
}

}  // namespace convext
