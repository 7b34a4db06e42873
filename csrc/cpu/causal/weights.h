// Weights and bias, which need not be of x's dtype.
#pragma once
#include "cpu/causal/job.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// `valid` elements of T from `from` on, as A; zeros in the other lanes.
template <class A, class T>
inline Vector<A> widen_as(const T* from, int64_t stride, int64_t valid) {
  using S = typename Sum<T>::type;
  if (stride == 1 && valid == Lanes<S>::count && sizeof(S) == sizeof(A)) return (Vector<A>)widen(from);
  const Vector<S> value = widen_few<S>(from, stride, valid);
  if (sizeof(S) == sizeof(A)) return (Vector<A>)value;
  S given[Lanes<S>::count];
  A lanes[Lanes<A>::count] = {};
  store<S>(given, value);
  for (int lane = 0; lane < valid; ++lane) lanes[lane] = A(given[lane]);
  return load(lanes);
}

// The same for elements of which a number tells the type.
template <class A>
inline Vector<A> widen_number(const void* data, Number number, int64_t offset, int64_t stride, int64_t valid) {
  switch (number) {
    case Number::float32:
      return widen_as<A>(static_cast<const float*>(data) + offset, stride, valid);
    case Number::float64:
      return widen_as<A>(static_cast<const double*>(data) + offset, stride, valid);
    case Number::float16:
      return widen_as<A>(static_cast<const float16*>(data) + offset, stride, valid);
    case Number::bfloat16:
      break;
  }
  return widen_as<A>(static_cast<const bfloat16*>(data) + offset, stride, valid);
}

// To [taps + 1][channels]: what lies beyond the last channel is zero.
template <class T>
inline void prepare_weights(const CausalCall& call) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count;
  const CausalProblem& p = call.problem;
  const Weights& w = call.weights;
  const Cut cut = cut_of<A>(p);
  A* to = static_cast<A*>(call.prepared);
  for (int64_t t = 0; t <= p.taps; ++t, to += cut.padded)
    for (int64_t c = 0; c < cut.padded; c += lanes) {
      const int64_t valid = larger(smaller(lanes, p.channels - c), 0);
      const bool is_bias = t == p.taps;
      Vector<A> value{};
      if (valid && is_bias && w.bias)
        value = widen_number<A>(w.bias, w.bias_number, c * w.bias_stride, w.bias_stride, valid);
      if (valid && !is_bias)
        value = widen_number<A>(w.data, w.number, c * w.stride[0] + t * w.stride[1], w.stride[0], valid);
      store<A>(to + c, value);
    }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
