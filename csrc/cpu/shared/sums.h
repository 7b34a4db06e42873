// The results that a tile keeps in registers.
#pragma once
#include "cpu/shared/vector.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// Sums of ROWS x VECTORS vectors of results. A long sum is made of shorter ones: error grows with the number of terms
// that are added one after the other.
constexpr int64_t TERMS = 32;

// Places that a register of a weight gradient sums before it is added to the partial sums: rounding grows with the root
// of their number.
constexpr int64_t RUN = 128;

template <class A, int ROWS, int VECTORS>
struct Sums {
  static constexpr int lanes = Lanes<A>::count;
  Vector<A> now[ROWS][VECTORS];
  A* before;
  bool split = false;

  static constexpr int size = ROWS * VECTORS * lanes;

  // `parts`: `size` elements. The compiler is not to know where they lie, and so to leave them in memory: registers are
  // for what the loop adds to.
  explicit CONVEXT_INLINE Sums(A* parts) : before(parts) { __asm__("" : "+r"(before)); }

  template <class Body>
  static CONVEXT_INLINE void each(const Body& body) {
    unrolled<ROWS>(CONVEXT_EACH(r) { unrolled<VECTORS>(CONVEXT_EACH(v) { body(r, v); }); });
  }

  CONVEXT_INLINE void begin() {
    each(CONVEXT_EACH2(r, v) { now[r.value][v.value] = Vector<A>{}; });
  }

  // Ends a part of the sum.
  CONVEXT_INLINE void next() {
    each(CONVEXT_EACH2(r, v) {
      A* at = before + (r.value * VECTORS + v.value) * lanes;
      store<A>(at, split ? load(at) + now[r.value][v.value] : now[r.value][v.value]);
      now[r.value][v.value] = Vector<A>{};
    });
    split = true;
  }

  // The sum is complete in `now`, with `last(row, vector)`: a bias is the last term, since a large one would take
  // digits from each that is added to it.
  template <class Last>
  CONVEXT_INLINE void finish(const Last& last) {
    if (split)
      each(CONVEXT_EACH2(r, v) { now[r.value][v.value] += load(before + (r.value * VECTORS + v.value) * lanes); });
    each(CONVEXT_EACH2(r, v) { now[r.value][v.value] += last(r, v); });
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
