// The arguments of a face, checked: what the operators get from Python becomes a Problem and three Views.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "library/runtime.h"
#include "shared/epilogue.cuh"
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
  const std::optional<Tensor>&bias, &residual;
  const Tensor& result;
  const Ints &stride, &pad, &dilation;  // an element for each spatial axis
  int64_t groups;
};

// Raises RuntimeError, with the argument's name, what was expected and what came, where they are no convolution of
// tensors on this library's device in float32, float16 or bfloat16.
Problem checked_problem(const Arguments& arguments);

// What follows the sums of a problem that was checked. Raises RuntimeError where there is no such activation, where the
// residual does not fit the result, and where something follows a wgrad.
Ending checked_ending(const Arguments& arguments, const std::string& activation, double first, double second);

// Raises RuntimeError unless `t`, called `name`, has the shape of `like`.
void check_like(const Arguments& arguments, const char* name, const Tensor& t, const Tensor& like);

// Strides of absent axes, and of axes of size 1, which are never stepped along, are 0.
View view(const Tensor& tensor);

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
