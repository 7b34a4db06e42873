// The pointwise half of what operators are given: a weight that was laid out before, and a bias.
#pragma once
#include "cpu/faces/kernels.h"
#include "cpu/shared/arguments.h"

namespace convext {
namespace cpu {

using Optional = std::optional<Tensor>;

// The shape of a packed weight.
inline Ints packed_shape(int64_t k, int64_t c, int64_t lanes) {
  return {(k + lanes - 1) / lanes, c, lanes};
}

// Gives `call`, whose problem is known, its weight and its bias; `name` is the bias's.
inline void give_packed(Call& call, const Tensor& packed, const Optional& bias, const char* name, int64_t lanes) {
  const int64_t c = call.problem.c, k = call.problem.k;
  const Ints expected = packed_shape(k, c, lanes);
  check(packed.is_cpu() && packed.scalar_type() == ScalarType::Float && shape(packed) == expected &&
            packed.is_contiguous(),
        "a weight that pack_pointwise made for ", k, " channels of y and ", c, " of x, of shape ", list(expected),
        ", but got ", list(shape(packed)));
  call.b.data = const_cast<void*>(packed.const_data_ptr());
  if (!bias) return;
  check(bias->is_cpu() && bias->scalar_type() == ScalarType::Float && shape(*bias) == Ints{k} &&
            (k == 1 || bias->stride(0) == 1),
        "a ", name, " in float32 of shape [", k, "] and stride 1, but got shape ", list(shape(*bias)));
  call.bias = bias->const_data_ptr();
}

}  // namespace cpu
}  // namespace convext
