// The product as other rooms call it. It is compiled with the pointwise kernels.
#pragma once
#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// Of `count` pixels from `t` on, `pitch` apart, and the weight of `call`; `to` is where the first pixel's results go.
void multiply(const Call& call, const float* t, int64_t pitch, float* to, int64_t count);

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
