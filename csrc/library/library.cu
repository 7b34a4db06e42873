// The operators' schemas. Each family's file registers its own implementation; autograd, fakes and the choice between
// kernels are Python's (convext/operators/ops.py, convext/choice/registry.py).
#include "library/runtime.h"

// `a`, `b`: the face's operands, (x, w), (y, w) or (x, y), of any strides. `size`: the result's spatial size. `pad`:
// the zeros before each axis. `channels_last`: the result's memory format.
#define CONVEXT_FACE_ARGUMENTS                                                                                    \
  "str face, Tensor a, Tensor b, Tensor? bias, int[] size, int[] stride, int[] pad, int[] dilation, int groups, " \
  "bool channels_last"

STABLE_TORCH_LIBRARY(CONVEXT_NAMESPACE, m) {
  m.def("stencil(" CONVEXT_FACE_ARGUMENTS ") -> Tensor");
  // dgrad of (a, b) and, for its operand x, wgrad.
  m.def(
      "stencil_backward(Tensor a, Tensor b, Tensor x, int[] size, int[] stride, int[] pad, int[] dilation, "
      "int groups, bool channels_last) -> (Tensor, Tensor)");
  m.def("igemm(" CONVEXT_FACE_ARGUMENTS ", str precision) -> Tensor");
}
