// What the host files share: checks with their numbers, tensors' numbers and shapes, memory, jobs. Host files include
// torch's and the standard library's headers; kernel files do not.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/shared/problem.h"

namespace convext {
namespace cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream text;
  text << "convext_cpu: expected ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

inline Ints shape(const Tensor& t) {
  Ints sizes;
  for (int64_t axis = 0; axis < t.dim(); ++axis) sizes.push_back(t.size(axis));
  return sizes;
}

inline std::string list(const Ints& values) {
  std::ostringstream text;
  for (size_t i = 0; i < values.size(); ++i) text << (i ? ", " : "[") << values[i];
  return text.str() + "]";
}

inline Number number_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Number::float32;
    case ScalarType::Double:
      return Number::float64;
    case ScalarType::Half:
      return Number::float16;
    default:
      check(t.scalar_type() == ScalarType::BFloat16, "float32, float64, float16 or bfloat16, but got ",
            torch::headeronly::toString(t.scalar_type()));
      return Number::bfloat16;
  }
}

// Memory aligned to a cache line. Throws std::bad_alloc.
using Memory = std::unique_ptr<void, decltype(&std::free)>;

inline Memory allocate(int64_t bytes) {
  constexpr int64_t line = 64;
  Memory memory(std::aligned_alloc(line, (bytes + line) / line * line), &std::free);
  if (!memory) throw std::bad_alloc();
  return memory;
}

// Items that a thread takes at least, of so many with an amount of work in all: 32768 units of work.
inline int64_t grain(int64_t items, int64_t amount) {
  const int64_t each = amount / (items > 0 ? items : 1) + 1;
  return 32768 / each + 1;
}

}  // namespace cpu
}  // namespace convext
