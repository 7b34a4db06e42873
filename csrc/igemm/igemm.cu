// The implicit-GEMM operator, any of its faces.
#include <algorithm>

#include "igemm/problem.h"
#include "library/call.h"

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

// A call's addresses: a, b, bias, result.
int64_t igemm_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Tensor result, Ints stride, Ints pad,
                 Ints dilation, int64_t groups, std::string precision) {
  const Problem p = checked_problem({"igemm", face, a, b, bias, result, stride, pad, dilation, groups});
  const Precision products = precision_of(precision, a);
  const View first = view(a), second = view(b), open = view(result);
  const int64_t sums = p.face == Face::wgrad ? int64_t(igemm_wgrad_splits(p)) * p.k * (p.c / p.groups) * taps(p) : 0;
  const Scratch like(a);
  Call call;
  for_dtype(a, [&](auto element) {
    call = [=](void* const* to, Stream stream) {
      Scratch scratch = like;
      igemm<decltype(element)>(p, at(first, to[0]), at(second, to[1]), to[2], sums ? scratch(sums) : nullptr,
                               at(open, to[3]), products, stream);
    };
  });
  return keep(std::move(call));
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("igemm", TORCH_BOX(&igemm_op));
}

}  // namespace convext
