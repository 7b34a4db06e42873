// The implicit-GEMM operator, any of its faces: checks its arguments, allocates the result, launches on the current
// stream.
#include <algorithm>

#include "igemm/problem.h"
#include "library/arguments.h"

namespace convext {

// Enough blocks to fill a GPU, each with a reduction that is worth its epilogue.
int igemm_wgrad_splits(const Problem& p) {
  constexpr int64_t BLOCKS = 512, LEAST_PIXELS = 512;  // blocks in all; pixels of a split
  const int64_t pixels = int64_t(p.n) * p.output[0] * p.output[1] * p.output[2];
  const int64_t rows = p.k / p.groups, columns = p.c / p.groups;
  const int64_t tiles = int64_t(p.groups) * taps(p) * ((rows + 63) / 64) * ((columns + 63) / 64);
  return static_cast<int>(std::max<int64_t>(1, std::min(BLOCKS / tiles, pixels / LEAST_PIXELS)));
}

static Precision precision_of(const std::string& name, const Tensor& a) {
  if (a.scalar_type() != ScalarType::Float || name == "tf32x3") return Precision::tf32x3;
  check(name == "tf32", "igemm: expected precision to be tf32 or tf32x3 for float32 tensors, but got ", name);
  return Precision::tf32;
}

Tensor igemm_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Ints size, Ints stride, Ints pad,
                Ints dilation, int64_t groups, bool channels_last, std::string precision) {
  const Arguments arguments{"igemm", face, a, b, bias, size, stride, pad, dilation, groups, channels_last};
  const Problem p = checked_problem(arguments);
  const Precision products = precision_of(precision, a);
  Tensor result = empty_result(p, arguments);
  if (result.numel() == 0) return result;
  check(a.numel() > 0 && b.numel() > 0, "igemm: expected operands with elements");

  const DeviceStream device(a);
  for_dtype(a, [&](auto element) {
    using T = decltype(element);
    std::optional<Tensor> partial;
    if (p.face == Face::wgrad)
      partial = torch::stable::new_empty(a, {igemm_wgrad_splits(p), p.k, p.c / p.groups, taps(p)}, ScalarType::Float);
    igemm<T>(p, view(a), view(b), bias_data(arguments),
             partial ? static_cast<float*>(partial->mutable_data_ptr()) : nullptr, view(result), products,
             device.stream);
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("igemm", TORCH_BOX(&igemm_op));
}

}  // namespace convext
