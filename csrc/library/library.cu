// The operators' schemas. Each family's file registers its own implementation; autograd, fakes and the choice between
// kernels are Python's (convext/operators/, convext/choice/registry.py).
#include "library/runtime.h"

// Each checks its arguments and binds a call to all but the tensors' addresses: csrc/library/call.h. `a`, `b`: the
// face's operands, (x, w), (y, w) or (x, y), of any strides, as the result may have. `pad`: the zeros before each axis.
// Of fprop and dgrad the result is activation(face + bias) + residual, the activation one of
// convext.problem.epilogue.NAMES with up to two scalars; igemm's residual has any strides, stencil's those of the
// result.
#define CONVEXT_FACE_ARGUMENTS                                                                             \
  "str face, Tensor a, Tensor b, Tensor? bias, Tensor? residual, Tensor result, int[] stride, int[] pad, " \
  "int[] dilation, int groups, str activation, float first_scalar, float second_scalar"

STABLE_TORCH_LIBRARY(CONVEXT_NAMESPACE, m) {
  m.def("stencil(" CONVEXT_FACE_ARGUMENTS ") -> int");
  // dgrad of (a, b) and, for its operand x, wgrad.
  m.def(
      "stencil_backward(Tensor a, Tensor b, Tensor x, Tensor dx, Tensor dw, int[] stride, int[] pad, int[] dilation, "
      "int groups) -> int");
  m.def("igemm(" CONVEXT_FACE_ARGUMENTS ", str precision) -> int");
  // The gradient by a bias: y summed over all but its channels.
  m.def("bias(Tensor y, Tensor result) -> int");
}
