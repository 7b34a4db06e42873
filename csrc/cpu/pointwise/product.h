// The product of a row of pixels, whose channels are innermost, and v.
//
//     y[m, k] = epilogue(sum over c of  t[m, c] * v[k, c] + bias[k] + added[m, k]) + residual[m, k]
//
//     a tile      pixels x vectors of k, in registers; each channel of a pixel is multiplied by as many vectors of v
//     a column    the tiles of a few vectors of k, one below the other: their part of v, [c][lanes] a vector, stays in
//                 the first-level cache
//
// Where k is no multiple of a vector, the last one is shifted back over channels of y that are already there; of a k
// that is less than a vector, the lanes beyond it are not stored.
#pragma once
#include "cpu/faces/finish.h"
#include "cpu/shared/geometry.h"
#include "cpu/shared/pack.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr bool WIDE_VECTORS = VECTOR_BYTES == 64;  // which come with 32 registers instead of 16
constexpr int PRODUCT_VECTORS = WIDE_VECTORS ? 3 : 2, PRODUCT_PIXELS = WIDE_VECTORS ? 8 : 6;
constexpr int64_t PRODUCT_TERMS = 64;  // that are added one after the other

class Product {
 public:
  static constexpr int64_t lanes = Lanes<float>::count;

  // `pitch`: from pixel to pixel of t. `added`: lies as the result does, or null.
  Product(const Call& given, int64_t pitch, const void* added)
      : call(given), pitch(pitch), added(static_cast<const float*>(added)) {}

  // v, as the product reads it.
  static void pack(const View& v, int64_t k, int64_t c, float* to) {
    const float* from = static_cast<const float*>(v.data);
    for (int64_t first = 0; first < k; first += lanes, to += c * lanes)
      for (int64_t at = 0; at < c; at += lanes)
        pack_pixels<float>(to + at * lanes, lanes, least(lanes, c - at),
                           from + most(least(first, k - lanes), 0) * v.stride[0] + at, v.stride[0], least(k, lanes));
  }

  // Columns of vectors of k, as even as can be. The last has what is no whole vector, too.
  static int64_t columns(int64_t k) { return most(over(k / lanes, PRODUCT_VECTORS), 1); }

  // Of `count` pixels from `t` on, columns `first` to `last` - 1; `to` is where the first pixel's results go.
  void run(const float* t, float* to, int64_t count, int64_t first, int64_t last) const {
    if (k < lanes) return column<1>(t, to, count, 0, 0);
    const int64_t whole = k / lanes, all = columns(k);
    for (int64_t i = first; i < last; ++i) {
      const int64_t vector = whole * i / all, now = whole * (i + 1) / all - vector;
      unrolled<PRODUCT_VECTORS>(CONVEXT_EACH(i) {
        if (now == i.value + 1) column<i.value + 1>(t, to, count, vector, vector * lanes);
      });
    }
    if (last == all && k % lanes) column<1>(t, to, count, whole, k - lanes);
  }

 private:
  const Call& call;
  const int64_t pitch, c = call.problem.c, k = call.problem.k, step = call.result.stride[4];
  const float* const added;
  const float* const result = static_cast<const float*>(call.result.data);
  const Finish<float> finish{call};
  const float *packed = static_cast<const float*>(call.b.data), *bias = static_cast<const float*>(call.bias);

  // Results `first` and those that follow, by the vectors of v from `vector` on. Tiles are as even as can be.
  template <int VECTORS>
  void column(const float* t, float* to, int64_t count, int64_t vector, int64_t first) const {
    for (int64_t left = over(count, PRODUCT_PIXELS); left > 0; --left) {
      const int64_t now = over(count, left);
      unrolled<PRODUCT_PIXELS>(CONVEXT_EACH(i) {
        if (now == i.value + 1) tile<i.value + 1, VECTORS>(t, packed + vector * c * lanes, first, to + first);
      });
      t += now * pitch, to += now * step, count -= now;
    }
  }

  template <int PIXELS, int VECTORS>
  void tile(const float* t, const float* v, int64_t first, float* to) const {
    float parts[Sums<float, PIXELS, VECTORS>::size];
    Sums<float, PIXELS, VECTORS> sums(parts);
    sums.begin();
    for (int64_t at = 0; at < c;) {
      if (at > 0) sums.next();
      for (const int64_t end = least(at + PRODUCT_TERMS, c); at < end; ++at) {
        Vector<float> weights[VECTORS];
        unrolled<VECTORS>(CONVEXT_EACH(i) { weights[i.value] = load(v + (i.value * c + at) * lanes); });
        unrolled<PIXELS>(CONVEXT_EACH(m) {
          const Vector<float> value = broadcast(t[m.value * pitch + at]);
          unrolled<VECTORS>(CONVEXT_EACH(i) { sums.now[m.value][i.value] += value * weights[i.value]; });
        });
      }
    }
    sums.finish(CONVEXT_EACH2(m, i) {
      const int64_t at = i.value * lanes;
      const Vector<float> last = bias ? load_first(bias + first + at, k) : Vector<float>{};
      return added ? last + load_first(added + (to - result) + m.value * step + at, k) : last;
    });
    if (k >= lanes) return finish.finished(sums, parts, to, step);
    sums.each(CONVEXT_EACH2(m, i) { store<float>(parts + m.value * lanes, finish.bound(sums.now[m.value][i.value])); });
    finish.rest(parts, lanes, to, step, PIXELS, k);
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
