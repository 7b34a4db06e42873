// The results that a tile keeps in registers.
#pragma once
#include "vector.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// Sums of ROWS x VECTORS vectors of results. A long sum is made of shorter ones: error grows with the number of terms
// that are added one after the other.
constexpr int64_t TERMS = 32;

template <class A, int ROWS, int VECTORS>
struct Sums {
  Vector<A> now[ROWS][VECTORS], before[ROWS][VECTORS];
  bool split = false;

  template <class Body>
  static CONVEXT_INLINE void each(const Body& body) {
    unrolled<ROWS>(CONVEXT_EACH(r) { unrolled<VECTORS>(CONVEXT_EACH(v) { body(r, v); }); });
  }

  CONVEXT_INLINE void begin(A value) {
    each(CONVEXT_EACH2(r, v) { now[r.value][v.value] = broadcast(value); });
  }

  // Ends a part of the sum.
  CONVEXT_INLINE void next() {
    if (split)
      each(CONVEXT_EACH2(r, v) { before[r.value][v.value] += now[r.value][v.value]; });
    else
      each(CONVEXT_EACH2(r, v) { before[r.value][v.value] = now[r.value][v.value]; });
    each(CONVEXT_EACH2(r, v) { now[r.value][v.value] = Vector<A>{}; });
    split = true;
  }

  // The sum is complete in `now`.
  CONVEXT_INLINE void finish() {
    if (split) each(CONVEXT_EACH2(r, v) { now[r.value][v.value] += before[r.value][v.value]; });
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
