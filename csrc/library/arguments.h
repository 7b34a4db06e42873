// The arguments of a face, checked: what the operators get from Python becomes a Problem and three Views.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "library/runtime.h"
#include "shared/problem.h"

namespace convext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// As the schemas in csrc/library/library.cu list them.
struct Arguments {
  const char* op;  // named in errors
  const std::string& face;
  const Tensor &a, &b;  // the face's operands: (x, w), (y, w) or (x, y)
  const std::optional<Tensor>& bias;
  const Ints &size, &stride, &pad, &dilation;  // an element for each spatial axis; `size` is the result's
  int64_t groups;
  bool channels_last;  // the result's memory format
};

// Raises RuntimeError, with the argument's name, what was expected and what came, where they are no convolution of
// tensors on this library's device in float32, float16 or bfloat16.
Problem checked_problem(const Arguments& arguments);

// Raises RuntimeError unless `x` is the input of dgrad's convolution.
void check_x(const Arguments& arguments, const Problem& problem, const Tensor& x);

Ints shape(const Tensor& tensor);

// Uninitialised, dense, in the memory format asked for.
Tensor empty_result(const Problem& problem, const Arguments& arguments);

// Strides of absent axes, and of axes of size 1, which are never stepped along, are 0.
View view(const Tensor& tensor);

inline const void* bias_data(const Arguments& arguments) {
  return arguments.bias ? arguments.bias->const_data_ptr() : nullptr;
}

// Calls `action` with a value of the tensor's element type.
template <class Action>
void for_dtype(const Tensor& tensor, Action action) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return action(float());
    case ScalarType::Half:
      return action(half());
    case ScalarType::BFloat16:
      return action(bfloat16());
    default:
      check(false, "expected float32, float16 or bfloat16");
  }
}

}  // namespace convext
