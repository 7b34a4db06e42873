// What may follow a sum before it is stored: an activation, and its derivative by the sum. The same piece as
// convext/problem/epilogue.py and triton_kernels/epilogue.py.
#pragma once
#include "cpu/shared/number.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// How exact a sigmoid has to be: of the 8 bits that bfloat16 keeps, or of all.
enum class Accuracy { bits8, all };
template <class T>
constexpr Accuracy accuracy_of = Accuracy::all;
template <>
constexpr Accuracy accuracy_of<bfloat16> = Accuracy::bits8;

// e^x for x between -87 and 88, e^-87 or e^88 beyond. With n = round(x / ln 2) and r = x - n ln 2, e^x = 2^n e^r, and
// e^r = 1 + r + r^2 q(r), where q interpolates at Chebyshev's points to 1e-8.
template <Accuracy>
CONVEXT_INLINE Vector<float> exponential(Vector<float> x) {
  const Vector<float> most = broadcast(88.0f), least = broadcast(-87.0f), rounder = broadcast(0x1.8p23f);
  x = x > most ? most : x;  // a NaN is neither, and stays
  x = x < least ? least : x;
  const Vector<float> shifted = x * 0x1.715476p0f + rounder, n = shifted - rounder;
  const Vector<float> r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
  const Vector<float> q = (((r * 0.00139262504f + 0.00836323295f) * r + 0.0416665524f) * r + 0.166665763f) * r + 0.5f;
  const Vector<float> power = (Vector<float>)(((Lanes<float>::mask)shifted << 23) + 0x3f800000);
  return (r * r * q + r + 1.0f) * power;
}

#ifdef __AVX512F__
// Two thirds of the instructions: with t = x / ln 2, n = round(t) and r = t - n, e^x = 2^n 2^r, and 2^r = 1 + r s(r) to
// 2e-8.
template <>
CONVEXT_INLINE Vector<float> exponential<Accuracy::all>(Vector<float> x) {
  constexpr int to_nearest = 0, as_is = 4;
  const Vector<float> most = broadcast(127.0f), least = broadcast(-126.0f);
  Vector<float> t = x * 0x1.715476p0f;
  t = t > most ? most : t;  // a NaN is neither, and stays
  t = t < least ? least : t;
  const Vector<float> n = (Vector<float>)__builtin_ia32_rndscaleps_mask(t, to_nearest, t, 0xffff, as_is), r = t - n;
  const Vector<float> s =
      ((((r * 0.00131076365f + 0.00967505295f) * r + 0.0555136763f) * r + 0.240221709f) * r + 0.693146408f);
  const Vector<float> power = s * r + 1.0f;
  return (Vector<float>)__builtin_ia32_scalefps512_mask(power, n, power, 0xffff, as_is);
}

// Half the instructions: with t = x / ln 2, n = round(t) and r = t - n, e^x = 2^n 2^r, and 2^r = 1 + r s(r) to 7e-6.
template <>
CONVEXT_INLINE Vector<float> exponential<Accuracy::bits8>(Vector<float> x) {
  constexpr int to_nearest = 0, as_is = 4;
  const Vector<float> least = broadcast(-87.0f), given = x * 0x1.715476p0f, t = given < least ? least : given;
  const Vector<float> n = (Vector<float>)__builtin_ia32_rndscaleps_mask(t, to_nearest, t, 0xffff, as_is), r = t - n;
  const Vector<float> power = (((r * 0.00965671029f + 0.0558382829f) * r + 0.240225301f) * r + 0.693136734f) * r + 1.0f;
  return (Vector<float>)__builtin_ia32_scalefps512_mask(power, n, power, 0xffff, as_is);
}
#endif

CONVEXT_INLINE float exponential(float x) {
  return __builtin_expf(x);
}
CONVEXT_INLINE double exponential(double x) {
  return __builtin_exp(x);
}

// `function` of each lane: for what has no vector version here.
template <class A, class Function>
CONVEXT_INLINE Vector<A> each_lane(Vector<A> value, const Function& function) {
  A lanes[Lanes<A>::count];
  store<A>(lanes, value);
  for (int lane = 0; lane < Lanes<A>::count; ++lane) lanes[lane] = function(lanes[lane]);
  return load(lanes);
}

template <Accuracy>
CONVEXT_INLINE Vector<double> exponential(Vector<double> x) {
  return each_lane<double>(x, [](double v) { return exponential(v); });
}

// 1 / x for x of at least 1, which has to be finite for all bits. A division of 16 lanes takes as long as all of a sum
// of taps and its exponential.
template <Accuracy accuracy>
CONVEXT_INLINE Vector<float> reciprocal(Vector<float> x) {
#ifdef __AVX512F__
  const Vector<float> near = (Vector<float>)__builtin_ia32_rcp14ps512_mask(x, x, 0xffff);
  if (accuracy == Accuracy::bits8) return near;
  return near * (2.0f - x * near);  // a step of Newton's, from 14 bits to 24
#else
  return 1.0f / x;
#endif
}

template <Accuracy>
CONVEXT_INLINE Vector<double> reciprocal(Vector<double> x) {
  return 1.0 / x;
}

template <class A, Accuracy accuracy>
CONVEXT_INLINE Vector<A> sigmoid(Vector<A> z) {
  return reciprocal<accuracy>(A(1) + exponential<accuracy>(-z));
}

// The normal distribution's share below z.
CONVEXT_INLINE Vector<double> share_below(Vector<double> z) {
  return 0.5 + 0.5 * each_lane<double>(z * 0.70710678118654752440, [](double v) { return __builtin_erf(v); });
}

// To 8e-8: Abramowitz and Stegun, 7.1.26. The share beyond |z| is e^(-z^2 / 2) times a polynomial in 1 / (1 + p |z|).
CONVEXT_INLINE Vector<float> share_below(Vector<float> z) {
  const Vector<float> far = broadcast(13.0f), given = z < Vector<float>{} ? -z : z, size = given > far ? far : given;
  const Vector<float> t = reciprocal<Accuracy::all>(1.0f + 0.231641888f * size);
  const Vector<float> polynomial =
      t * (0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576014f + t * 0.530702715f))));
  const Vector<float> beyond = masked<float>(exponential<Accuracy::all>(size * size * -0.5f), given < far) * polynomial;
  return z < Vector<float>{} ? beyond : 1.0f - beyond;
}

// z times the sigmoid of `by`, which is 0 from -88 down: a sigmoid that is cut off would leave some of a large z.
template <class A, class T>
CONVEXT_INLINE Vector<A> times_sigmoid(Vector<A> z, Vector<A> by) {
  return z * masked<A>(sigmoid<A, accuracy_of<T>>(by), by >= A(-88));
}

CONVEXT_INLINE Vector<double> hyperbolic_tangent(Vector<double> z) {
  return each_lane<double>(z, [](double v) { return __builtin_tanh(v); });
}

// (1 - e) / (1 + e) with e = e^(-2|z|), whose difference loses the digits of a small z: there, its series.
CONVEXT_INLINE Vector<float> hyperbolic_tangent(Vector<float> z) {
  const Vector<float> size = z < Vector<float>{} ? -z : z, e = exponential<Accuracy::all>(size * -2.0f), s = z * z;
  const Vector<float> far = (1.0f - e) * reciprocal<Accuracy::all>(1.0f + e);
  const Vector<float> near = z + z * s * (((s * 0.0218694885f - 0.0539682540f) * s + 0.133333333f) * s - 0.333333333f);
  return size < 0.25f ? near : z < Vector<float>{} ? -far : far;
}

template <class A>
CONVEXT_INLINE Vector<A> bounded(Vector<A> z, A low, A high) {  // a NaN is in no order, and stays
  const Vector<A> least = broadcast(low), greatest = broadcast(high);
  z = z < least ? least : z;
  return z > greatest ? greatest : z;
}

// One of the first four. To be rounded to T.
template <class A, class T>
CONVEXT_INLINE Vector<A> activated(Activation activation, Vector<A> z) {
  switch (activation) {
    case Activation::identity:
      return z;
    case Activation::silu:
      return times_sigmoid<A, T>(z, z);
    case Activation::gelu:
      return z * share_below(z);
    default:
      return z < Vector<A>{} ? Vector<A>{} : z;
  }
}

// Any. To be rounded to T.
template <class A, class T>
CONVEXT_INLINE Vector<A> activated(const Epilogue& epilogue, Vector<A> z) {
  const A first = A(epilogue.scalars[0]), second = A(epilogue.scalars[1]);
  switch (epilogue.activation) {
    case Activation::leaky_relu:
      return z > Vector<A>{} ? z : z * first;
    case Activation::clamp:
      return bounded<A>(z, first, second);
    case Activation::hardswish:
      return z * (bounded<A>(z + A(3), A(0), A(6)) * A(1.0 / 6));
    case Activation::hardsigmoid:
      return bounded<A>(z + A(3), A(0), A(6)) * A(1.0 / 6);
    case Activation::gelu_tanh:
      return times_sigmoid<A, T>(z, z * (A(0.071354816272600248) * z * z + A(1.5957691216057308)));
    case Activation::sigmoid:
      return sigmoid<A, accuracy_of<T>>(z);
    case Activation::tanh:
      return hyperbolic_tangent(z);
    default:
      return activated<A, T>(epilogue.activation, z);
  }
}

// Calls body(activation). SiLU, which most callers want, is known there when it is compiled: its constants then stay in
// registers along a loop.
template <class Body>
CONVEXT_INLINE void for_activation(Activation activation, const Body& body) {
  if (activation == Activation::silu)
    body(Activation::silu);
  else
    body(activation);
}

// The derivative of `activated` by z, of the first four.
template <class A>
CONVEXT_INLINE Vector<A> slope(Activation activation, Vector<A> z) {
  switch (activation) {
    case Activation::identity:
      return broadcast(A(1));
    case Activation::silu: {
      const Vector<A> s = sigmoid<A, Accuracy::all>(z);
      return s * (A(1) + z * (A(1) - s));
    }
    case Activation::gelu:
      return share_below(z) + z * exponential<Accuracy::all>(z * z * A(-0.5)) * A(0.39894228040143267794);
    default:
      return z > Vector<A>{} ? broadcast(A(1)) : Vector<A>{};
  }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
