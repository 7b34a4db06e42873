// The sums of causal convolutions, and their gradients, along walks of vectors.
//
// A window of x lies in scratch, widened once, behind what comes before it. In it both memory formats are one loop:
//
//     positions innermost    a channel a window; lanes are positions, weights are broadcast
//                            x: | before | 0 1 2 3 .. |               the next vector is a vector's width on
//     channels innermost     rows of some channels; lanes are channels
//                            x: | rows before | row 0 | row 1 | .. |  the next vector is a row on
//
// A walk is so many vectors `step` apart, whose weights are the same; a tap reads `reach` elements before the next one.
#pragma once
#include "cpu/causal/causal.h"
#include "cpu/shared/epilogue.h"
#include "cpu/shared/number.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct Walk {
  int64_t vectors, step, reach;
  int64_t valid;   // lanes of each vector that hold something
  int64_t memory;  // what `step` is in the tensors
};

// A vector for each tap, then the bias. Of TAPS taps, in registers; of any number where TAPS is 0, in memory.
template <class A, int TAPS>
struct Weighted {
  static constexpr int64_t count = TAPS;
  Vector<A> vectors[TAPS + 1];

  CONVEXT_INLINE Weighted(const A* from, int64_t apart, int64_t) {
    unrolled<TAPS + 1>(CONVEXT_EACH(t) { vectors[t.value] = load(from + t.value * apart); });
  }
  CONVEXT_INLINE Vector<A> operator[](int64_t t) const { return vectors[t]; }
};

template <class A>
struct Weighted<A, 0> {
  const A* from;
  int64_t apart, count;

  CONVEXT_INLINE Weighted(const A* from, int64_t apart, int64_t count) : from(from), apart(apart), count(count) {}
  CONVEXT_INLINE Vector<A> operator[](int64_t t) const { return load(from + t * apart); }
};

template <class A, int TAPS>
CONVEXT_INLINE Vector<A> sum_of_taps(const Weighted<A, TAPS>& w, const A* x, int64_t reach) {
  Vector<A> z{};
  for (int64_t t = 0; t < w.count; ++t) z += w[t] * load(x - (w.count - 1 - t) * reach);
  return z + w[w.count];
}

template <class A, class T>
CONVEXT_INLINE Vector<A> widen_valid(const T* from, int64_t valid) {
  return valid == Lanes<A>::count ? widen(from) : widen_few<A>(from, 1, valid);
}

template <class A, class T>
CONVEXT_INLINE void narrow_valid(T* to, Vector<A> value, int64_t valid) {
  if (valid == Lanes<A>::count)
    narrow(to, value);
  else
    narrow_few<A>(to, 1, value, valid);
}

// y = activation(z) + residual, from x in scratch to tensors.
template <class A, int TAPS, class T>
inline void walk_forward(Activation activation, const Weighted<A, TAPS> weights, const Walk w, const A* x,
                         const T* residual, T* y) {
  for_activation(activation, [&](Activation known) __attribute__((always_inline)) {
    for (int64_t i = 0; i < w.vectors; ++i) {
      Vector<A> value = activated<A, T>(known, sum_of_taps(weights, x + i * w.step, w.reach));
      if (residual) value += widen_valid<A>(residual + i * w.memory, w.valid);
      narrow_valid<A>(y + i * w.memory, value, w.valid);
    }
  });
}

// The vector that begins BACK lanes before `here`, of which the one before is `before`.
template <int BACK, class V, int... I>
CONVEXT_INLINE V reach_back(V before, V here, Indices<I...>) {
  constexpr int count = sizeof...(I);
  return __builtin_shufflevector(before, here, (count - BACK + I)...);
}

// The same along a row of neighbouring positions, past scratch: neighbouring taps of a vector lie in it and in the one
// before it, both in registers.
template <class A, int TAPS, class T>
inline void walk_row(Activation activation, const Weighted<A, TAPS> weights, int64_t count, Vector<A> before,
                     const T* x, const T* residual, T* y) {
  constexpr int64_t lanes = Lanes<A>::count;
  for_activation(activation, [&](Activation known) __attribute__((always_inline)) {
    const auto vector = [&](int64_t at, int64_t valid) __attribute__((always_inline)) {
      const Vector<A> here = widen_valid<A>(x + at, valid);
      Vector<A> z{};
      unrolled<TAPS>(CONVEXT_EACH(t) {
        constexpr int back = TAPS - 1 - decltype(t)::value;
        z += weights[t.value] * reach_back<back>(before, here, typename IndicesTo<lanes>::type{});
      });
      Vector<A> value = activated<A, T>(known, z + weights[TAPS]);
      if (residual) value += widen_valid<A>(residual + at, valid);
      narrow_valid<A>(y + at, value, valid);
      before = here;
    };
    int64_t at = 0;
    for (; at + lanes <= count; at += lanes) vector(at, lanes);
    if (at < count) vector(at, count - at);
  });
}

// The gradient by z into scratch; its products with x, and itself, added to `sums` [taps + 1], a vector each.
template <class A, int TAPS, class T>
inline void walk_backward(Activation activation, const Weighted<A, TAPS> weights, const Walk w, const A* x,
                          const T* grad, A* by_z, A* sums) {
  constexpr int lanes = Lanes<A>::count;
  const auto mask = first_lanes<A>(w.valid);
  Vector<A> totals[TAPS + 1];
  unrolled<TAPS + 1>(CONVEXT_EACH(t) { totals[t.value] = Vector<A>{}; });
  for_activation(activation, [&](Activation known) __attribute__((always_inline)) {
    for (int64_t i = 0; i < w.vectors; ++i) {
      const A* at = x + i * w.step;
      const Vector<A> given = widen_valid<A>(grad + i * w.memory, w.valid);
      const Vector<A> value = masked<A>(given * slope<A>(known, sum_of_taps(weights, at, w.reach)), mask);
      store<A>(by_z + i * w.step, value);
      totals[TAPS] += value;
      unrolled<TAPS>(CONVEXT_EACH(t) { totals[t.value] += value * load(at - (TAPS - 1 - t.value) * w.reach); });
      if constexpr (TAPS == 0)
        for (int64_t t = 0; t < weights.count; ++t)
          store<A>(sums + t * lanes, load(sums + t * lanes) + value * load(at - (weights.count - 1 - t) * w.reach));
    }
  });
  unrolled<TAPS>(CONVEXT_EACH(t) { store<A>(sums + t.value * lanes, load(sums + t.value * lanes) + totals[t.value]); });
  A* last = sums + weights.count * lanes;
  store<A>(last, load(last) + totals[TAPS]);
}

// The gradient by x, from that by z at the same positions and later ones: the taps the other way round.
template <class A, int TAPS, class T>
inline void walk_input(const Weighted<A, TAPS> weights, const Walk w, const A* by_z, T* by_x) {
  for (int64_t i = 0; i < w.vectors; ++i) {
    Vector<A> value{};
    for (int64_t t = 0; t < weights.count; ++t)
      value += weights[t] * load(by_z + i * w.step + (weights.count - 1 - t) * w.reach);
    narrow_valid<A>(by_x + i * w.memory, value, w.valid);
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
