// Vectors of one width, by the compiler's own vector types: one source for every instruction set.
#pragma once
#include "cpu/shared/problem.h"

#define CONVEXT_INLINE __attribute__((always_inline)) inline

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int VECTOR_BYTES = CONVEXT_VECTOR_BYTES;

// Lanes of A, the type that sums are formed in, and integers of the same size.
template <class A>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int count = VECTOR_BYTES / 4;
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
  typedef float unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t mask __attribute__((vector_size(VECTOR_BYTES)));
};

template <>
struct Lanes<double> {
  static constexpr int count = VECTOR_BYTES / 8;
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef double unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t mask __attribute__((vector_size(VECTOR_BYTES)));
};

template <class A>
using Vector = typename Lanes<A>::type;

template <class A>
CONVEXT_INLINE Vector<A> load(const A* from) {
  return *reinterpret_cast<const typename Lanes<A>::unaligned*>(from);
}

template <class A>
CONVEXT_INLINE void store(A* to, Vector<A> value) {
  *reinterpret_cast<typename Lanes<A>::unaligned*>(to) = value;
}

template <class A>
CONVEXT_INLINE Vector<A> broadcast(A value) {
  return value - Vector<A>{};
}

// A value that is used several times, in a register: left to itself, the compiler loads it anew for each of them, and
// loads are what a loop of multiplications by what it has just loaded waits for.
template <class V>
CONVEXT_INLINE V held(V value) {
#if defined(__AVX512F__) || (defined(__AVX__) && CONVEXT_VECTOR_BYTES <= 32) || \
    (defined(__SSE2__) && CONVEXT_VECTOR_BYTES <= 16)
  __asm__("" : "+v"(value));
#endif
  return value;
}

// Copies `count` elements, fewer than a vector of A has, in pieces of constant size.
template <class A, class T>
CONVEXT_INLINE void copy_few(T* to, const T* from, int64_t count) {
  int64_t at = 0;
  if constexpr (Lanes<A>::count > 8)
    if (count & 8) __builtin_memcpy(to, from, 8 * sizeof(T)), at = 8;
  if constexpr (Lanes<A>::count > 4)
    if (count & 4) __builtin_memcpy(to + at, from + at, 4 * sizeof(T)), at += 4;
  if (count & 2) __builtin_memcpy(to + at, from + at, 2 * sizeof(T)), at += 2;
  if (count & 1) to[at] = from[at];
}

// Stores the first `count` lanes, at most all.
template <class A>
CONVEXT_INLINE void store_first(A* to, Vector<A> value, int64_t count) {
  if (count >= Lanes<A>::count) return store<A>(to, value);
  A lanes[Lanes<A>::count];
  store<A>(lanes, value);
  copy_few<A>(to, lanes, count);
}

// Loads the first `count` lanes, at most all; zeros in the others.
template <class A>
CONVEXT_INLINE Vector<A> load_first(const A* from, int64_t count) {
  if (count >= Lanes<A>::count) return load(from);
  A lanes[Lanes<A>::count] = {};
  copy_few<A>(lanes, from, count);
  return load(lanes);
}

// All bits set in the first `count` lanes.
template <class A>
CONVEXT_INLINE typename Lanes<A>::mask first_lanes(int64_t count) {
  typename Lanes<A>::mask mask;
  for (int lane = 0; lane < Lanes<A>::count; ++lane) mask[lane] = lane < count ? -1 : 0;
  return mask;
}

template <class A>
CONVEXT_INLINE Vector<A> masked(Vector<A> value, typename Lanes<A>::mask mask) {
  return (Vector<A>)((typename Lanes<A>::mask)value & mask);
}

// The sum of all lanes, always in the same order.
template <class A>
CONVEXT_INLINE A sum(Vector<A> value) {
  A lanes[Lanes<A>::count];
  store<A>(lanes, value);
  for (int half = Lanes<A>::count / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// ------------------------------------------------------------------------------------------------- unrolled loops

template <int I>
struct Int {
  static constexpr int value = I;
};

template <int... I>
struct Indices {};

template <int N, int... I>
struct IndicesTo : IndicesTo<N - 1, N - 1, I...> {};

template <int... I>
struct IndicesTo<0, I...> {
  using type = Indices<I...>;
};

template <class Body, int... I>
CONVEXT_INLINE void unrolled(const Body& body, Indices<I...>) {
  (body(Int<I>{}), ...);
}

// Calls `body` with Int<0> to Int<N - 1>. What lies in arrays stays in registers, as it may not in a loop.
template <int N, class Body>
CONVEXT_INLINE void unrolled(const Body& body) {
  unrolled(body, typename IndicesTo<N>::type{});
}

#define CONVEXT_EACH(index) [&](auto index) __attribute__((always_inline))
#define CONVEXT_EACH2(first, second) [&](auto first, auto second) __attribute__((always_inline))

// ------------------------------------------------------------------------------------------------- lanes, moved

// Of two rows that are BIT apart, the two that a transposition of their BIT x BIT blocks leaves there.
template <int BIT, class V, int... I>
CONVEXT_INLINE void exchange(V& low, V& high, Indices<I...>) {
  constexpr int count = sizeof...(I);
  const V a = low, b = high;
  low = __builtin_shufflevector(a, b, ((I & BIT) ? count + I - BIT : I)...);
  high = __builtin_shufflevector(a, b, ((I & BIT) ? count + I : I + BIT)...);
}

// As many lanes as a vector of doubles has, from FIRST on.
template <int FIRST, class V, int... I>
CONVEXT_INLINE Vector<double> in_double(V value, Indices<I...>) {
  return __builtin_convertvector(__builtin_shufflevector(value, value, (FIRST + I)...), Vector<double>);
}

// Calls `body` with the first lane of each part of a vector of A that a vector of doubles holds.
template <class A, class Body>
CONVEXT_INLINE void each_double(const Body& body) {
  constexpr int of = Lanes<double>::count;
  unrolled<Lanes<A>::count / of>(CONVEXT_EACH(i) { body(Int<decltype(i)::value * of>{}); });
}

// to[i] += value[i]
template <class A>
CONVEXT_INLINE void add_to(double* to, Vector<A> value) {
  each_double<A>(CONVEXT_EACH(first) {
    constexpr int lane = decltype(first)::value;
    const Vector<double> more = in_double<lane>(value, typename IndicesTo<Lanes<double>::count>::type{});
    store<double>(to + lane, load(to + lane) + more);
  });
}

// to[i] = value[i]
template <class A>
CONVEXT_INLINE void from_double(A* to, Vector<double> value) {
  typedef A Narrow __attribute__((vector_size(Lanes<double>::count * sizeof(A))));
  const Narrow narrow = __builtin_convertvector(value, Narrow);
  __builtin_memcpy(to, &narrow, sizeof(narrow));
}

template <int GROUP, int OF, class V, int... I>
CONVEXT_INLINE V spread_lanes(V value, Indices<I...>) {
  return __builtin_shufflevector(value, value, (I / GROUP * GROUP + OF)...);
}

// Of every GROUP lanes, all become what lane OF of them is.
template <class A, int GROUP, int OF>
CONVEXT_INLINE Vector<A> spread(Vector<A> value) {
  if constexpr (GROUP == 1)
    return value;
  else
    return spread_lanes<GROUP, OF>(value, typename IndicesTo<Lanes<A>::count>::type{});
}

// rows[i][j] becomes rows[j][i].
template <class A, int BIT = 1>
CONVEXT_INLINE void transpose(Vector<A> (&rows)[Lanes<A>::count]) {
  constexpr int count = Lanes<A>::count;
  if constexpr (BIT < count) {
    unrolled<count>(CONVEXT_EACH(i) {
      constexpr int row = decltype(i)::value;
      if constexpr ((row & BIT) == 0) exchange<BIT>(rows[row], rows[row + BIT], typename IndicesTo<count>::type{});
    });
    transpose<A, BIT * 2>(rows);
  }
}

// rows[0][i] becomes the sum of rows[i]: half as many rows a round, each of which holds the half sums of two.
template <class A, int BIT = 1>
CONVEXT_INLINE void add_lanes(Vector<A> (&rows)[Lanes<A>::count]) {
  constexpr int count = Lanes<A>::count;
  if constexpr (BIT < count) {
    unrolled<count / BIT / 2>(CONVEXT_EACH(i) {
      constexpr int row = decltype(i)::value * BIT * 2;
      exchange<BIT>(rows[row], rows[row + BIT], typename IndicesTo<count>::type{});
      rows[row] += rows[row + BIT];
    });
    add_lanes<A, BIT * 2>(rows);
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
