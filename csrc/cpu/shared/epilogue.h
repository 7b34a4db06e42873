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

// e^x; 0 where float32 has nothing that small, infinite where it has nothing that large.
#ifdef __AVX512F__
// With t = x / ln 2, n = round(t) and r = t - n, e^x = 2^n 2^r. That t is rounded does no more than the last bit of an
// x would. 2^r = 1 + r s(r) to 2e-8, or to 7e-6 with half the instructions.
template <Accuracy accuracy>
CONVEXT_INLINE Vector<float> exponential(Vector<float> x) {
  constexpr int to_nearest = 0, as_is = 4;
  const Vector<float> least = broadcast(-150.0f), given = x * 0x1.715476p0f;
  const Vector<float> t = given < least ? least : given;  // a NaN stays
  const Vector<float> n = (Vector<float>)__builtin_ia32_rndscaleps_mask(t, to_nearest, t, 0xffff, as_is), r = t - n;
  Vector<float> s;
  if (accuracy == Accuracy::bits8)
    s = ((r * 0.00965671029f + 0.0558382829f) * r + 0.240225301f) * r + 0.693136734f;
  else
    s = ((((r * 0.000153483299f + 0.00133986864f) * r + 0.00961845089f) * r + 0.0555033311f) * r + 0.240226477f) * r +
        0.693147182f;
  const Vector<float> power = s * r + 1.0f;
  return (Vector<float>)__builtin_ia32_scalefps512_mask(power, n, power, 0xffff, as_is);
}
#else
// With n = round(x / ln 2) and r = x - n ln 2, e^x = 2^n e^r, and e^r = 1 + r + r^2 q(r), where q interpolates at
// Chebyshev's points to 1e-8. The bits of 2^n are made from n: of -127 those of 0, of 128 those of infinity.
template <Accuracy>
CONVEXT_INLINE Vector<float> exponential(Vector<float> x) {
  const Vector<float> most = broadcast(89.0f), least = broadcast(-88.0f), rounder = broadcast(0x1.8p23f);
  x = x > most ? most : x;  // a NaN is neither, and stays
  x = x < least ? least : x;
  const Vector<float> shifted = x * 0x1.715476p0f + rounder, n = shifted - rounder;
  const Vector<float> r = x - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
  const Vector<float> q = (((r * 0.00139262504f + 0.00836323295f) * r + 0.0416665524f) * r + 0.166665763f) * r + 0.5f;
  const Vector<float> power = (Vector<float>)(((Lanes<float>::mask)shifted << 23) + 0x3f800000);
  return (r * r * q + r + 1.0f) * power;
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

// a / b. Where 8 bits do, an approximate reciprocal takes the place of the division.
template <Accuracy accuracy, class A>
CONVEXT_INLINE Vector<A> quotient(Vector<A> a, Vector<A> b) {
#ifdef __AVX512F__
  if constexpr (accuracy == Accuracy::bits8) return a * (Vector<A>)__builtin_ia32_rcp14ps512_mask(b, b, 0xffff);
#endif
  return a / b;
}

template <class A, Accuracy accuracy>
CONVEXT_INLINE Vector<A> sigmoid(Vector<A> z) {
  return quotient<accuracy, A>(broadcast(A(1)), A(1) + exponential<accuracy>(-z));
}

// The normal distribution's share below z.
CONVEXT_INLINE Vector<double> share_below(Vector<double> z) {
  return 0.5 + 0.5 * each_lane<double>(z * 0.70710678118654752440, [](double v) { return __builtin_erf(v); });
}

// To 8e-8: Abramowitz and Stegun, 7.1.26. The share beyond |z| is e^(-z^2 / 2) times a polynomial in 1 / (1 + p |z|).
CONVEXT_INLINE Vector<float> share_below(Vector<float> z) {
  const Vector<float> far = broadcast(13.0f), given = z < Vector<float>{} ? -z : z, size = given > far ? far : given;
  const Vector<float> t = 1.0f / (1.0f + 0.231641888f * size);
  const Vector<float> polynomial =
      t * (0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576014f + t * 0.530702715f))));
  const Vector<float> beyond = masked<float>(exponential<Accuracy::all>(size * size * -0.5f), given < far) * polynomial;
  return z < Vector<float>{} ? beyond : 1.0f - beyond;
}

// z times the sigmoid of `by`.
template <class A, class T>
CONVEXT_INLINE Vector<A> times_sigmoid(Vector<A> z, Vector<A> by) {
  return quotient<accuracy_of<T>, A>(z, A(1) + exponential<accuracy_of<T>>(-by));
}

CONVEXT_INLINE Vector<double> hyperbolic_tangent(Vector<double> z) {
  return each_lane<double>(z, [](double v) { return __builtin_tanh(v); });
}

// (1 - e) / (1 + e) with e = e^(-2|z|), whose difference loses the digits of a small z: there, its series.
CONVEXT_INLINE Vector<float> hyperbolic_tangent(Vector<float> z) {
  const Vector<float> size = z < Vector<float>{} ? -z : z, e = exponential<Accuracy::all>(size * -2.0f), s = z * z;
  const Vector<float> far = (1.0f - e) / (1.0f + e);
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
