// The implicit-GEMM operator, any of its faces. Contiguous tensors whose groups have channels in whole vectors are
// copied to channels last before the product, and from there after it: one call launches all.
#include <algorithm>

#include "igemm/problem.h"
#include "library/call.h"
#include "passes/transpose.h"

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

// Scratch memory of a call: pieces one after the other, each as aligned as memory of its own would be.
struct Pieces {
  static constexpr int64_t ALIGNMENT = 512;
  int64_t bytes = 0;

  int64_t take(int64_t size) {
    const int64_t begin = bytes;
    bytes += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return begin;
  }
};

// A tensor as the product takes it: as it lies, or as a copy in channels last.
class Operand {
 public:
  // `vectors`: whether a group's channels are whole vectors, which is what channels last is good for.
  Operand(const Tensor& t, bool vectors, Pieces& scratch) : view_(view(t)) {
    Matrices m{t.size(0), t.size(1), 1, t.scalar_type() == ScalarType::Float ? 4 : 2};
    for (int64_t axis = 2; axis < t.dim(); ++axis) m.columns *= t.size(axis);
    if (!vectors || !t.is_contiguous() || m.rows == 1 || m.columns == 1) return;
    matrices_ = m, begin_ = scratch.take(m.bytes());
    view_.stride[1] = 1;
    for (int axis = 0; axis < AXES; ++axis) view_.stride[2 + axis] *= m.rows;
  }

  // Where the product finds an operand that lies at `address`, or its copy, which is made.
  View read(const void* address, char* scratch, Stream stream) const {
    if (matrices_.batches) transpose(matrices_, address, scratch + begin_, stream);
    return written(const_cast<void*>(address), scratch);
  }
  // Where the product writes a result that shall lie at `address`, and what brings it there.
  View written(void* address, char* scratch) const { return at(view_, matrices_.batches ? scratch + begin_ : address); }
  void finish(void* address, const char* scratch, Stream stream) const {
    if (matrices_.batches) transpose(matrices_.transposed(), scratch + begin_, address, stream);
  }

 private:
  View view_;
  Matrices matrices_{};  // none: no copy
  int64_t begin_ = 0;
};

// A call's addresses: a, b, bias, residual, result.
int64_t igemm_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, std::optional<Tensor> residual,
                 Tensor result, Ints stride, Ints pad, Ints dilation, int64_t groups, std::string activation,
                 double first_scalar, double second_scalar, std::string precision) {
  const Arguments arguments{"igemm", face, a, b, bias, residual, result, stride, pad, dilation, groups};
  const Problem p = checked_problem(arguments);
  const Ending ending = checked_ending(arguments, activation, first_scalar, second_scalar);
  const Precision products = precision_of(precision, a);
  const int vector = VECTOR_BYTES / (a.scalar_type() == ScalarType::Float ? 4 : 2);
  const bool vectors = p.c / p.groups % vector == 0 && p.k / p.groups % vector == 0;
  const int64_t sums = p.face == Face::wgrad ? int64_t(igemm_wgrad_splits(p)) * p.k * (p.c / p.groups) * taps(p) : 0;
  Pieces pieces;
  pieces.take(sums * int64_t(sizeof(float)));  // first
  const Operand first(a, vectors, pieces), second(b, vectors, pieces);
  const Operand open(result, vectors && p.face != Face::wgrad, pieces);  // sums of a wgrad lie as contiguous weights do
  const int64_t bytes = pieces.bytes;
  const Scratch like(a);
  Call call;
  for_dtype(a, [&](auto element) {
    call = [=](void* const* to, Stream stream) {
      Scratch memory = like;
      float* partial = bytes ? memory(bytes / int64_t(sizeof(float))) : nullptr;
      char* scratch = reinterpret_cast<char*>(partial);
      const View from = first.read(to[0], scratch, stream), by = second.read(to[1], scratch, stream);
      igemm<decltype(element)>(p, from, by, to[2], at(ending, to[3]), partial, open.written(to[4], scratch), products,
                               stream);
      open.finish(to[4], scratch, stream);
    };
  });
  return keep(std::move(call));
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("igemm", TORCH_BOX(&igemm_op));
}

}  // namespace convext
