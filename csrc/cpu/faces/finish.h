// What follows a sum before it is stored: y = activation(sum) + residual.
//
// Bounds (none, relu, clamp) cost two instructions, and a tile has them in its registers. What costs more, and reads
// another tensor, is done to a tile's results, which lie in the first-level cache:
//
//     sums in registers ──> bounded, and stored ──> curve and residual, from the cache and back
//
// Where nothing is left to do they are not read again.
#pragma once
#include "cpu/faces/kernels.h"
#include "cpu/shared/epilogue.h"
#include "cpu/shared/sums.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

template <class T>
struct Finish {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  template <Activation ACTIVATION>
  struct Known {
    static constexpr Activation value = ACTIVATION;
  };

  A low = -__builtin_inf(), high = __builtin_inf();
  Epilogue curve{};             // no bound
  const T* result = nullptr;    // the tensor,
  const T* residual = nullptr;  // and one that lies as it does, or null
  bool is_plain = true;         // nothing follows

  Finish() = default;
  explicit Finish(const Call& call)
      : result(static_cast<const T*>(call.result.data)), residual(static_cast<const T*>(call.residual)) {
    const Epilogue& given = call.epilogue;
    is_plain = given.activation == Activation::identity && !residual;
    if (given.activation == Activation::relu)
      low = A(0);
    else if (given.activation == Activation::clamp)
      low = A(given.scalars[0]), high = A(given.scalars[1]);
    else
      curve = given;
  }

  CONVEXT_INLINE Vector<A> bound(Vector<A> z) const { return bounded<A>(z, low, high); }

  CONVEXT_INLINE bool is_done() const { return curve.activation == Activation::identity && !residual; }

  // Calls `body` with the activation where it is one that most networks have behind a depthwise convolution, and short
  // enough for a tile's registers; false where it is none, or a residual is to be read.
  template <class Body>
  CONVEXT_INLINE bool in_registers(const Body& body) const {
    if (residual) return false;
    switch (curve.activation) {
      case Activation::identity:
        return body(Known<Activation::identity>{}), true;
      case Activation::silu:
        return body(Known<Activation::silu>{}), true;
      case Activation::hardswish:
        return body(Known<Activation::hardswish>{}), true;
      default:
        return false;
    }
  }

  template <class Which>
  CONVEXT_INLINE Vector<A> with(Which known, Vector<A> z) const {
    return activated<A, T>(Epilogue{known.value, {curve.scalars[0], curve.scalars[1]}}, z);
  }

  // All that is to do to a tile, PIXELS results `step` apart of VECTORS vectors of channels each, whose biases `bias`
  // points to.
  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void tile(Sums<A, PIXELS, VECTORS>& sums, A* parts, T* to, int64_t step, const A* bias,
                           int64_t count = PIXELS) const {
    sums.finish(CONVEXT_EACH2(, v) { return load(bias + v.value * lanes); });
    finished(sums, parts, to, step, count);
  }

  // The same of sums that are complete.
  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void finished(const Sums<A, PIXELS, VECTORS>& sums, A* parts, T* to, int64_t step,
                               int64_t count = PIXELS) const {
    if constexpr (sizeof(T) == sizeof(A))
      if (is_plain && count == PIXELS)
        return sums.each(
            CONVEXT_EACH2(m, v) { store<A>(to + m.value * step + v.value * lanes, sums.now[m.value][v.value]); });
    if constexpr (PIXELS * VECTORS <= ARGUMENTS)
      handed<VECTORS>(sums, parts, to, step, count, typename IndicesTo<PIXELS * VECTORS>::type{});
    else
      written(sums, parts, to, step, count);
  }

  // What is left to do to `rows` of `count` bounded sums, rows `apart`: they are written to the tensor, rows `step`
  // apart. `sums` may lie there.
  void rest(const A* sums, int64_t apart, T* to, int64_t step, int64_t rows, int64_t count) const {
    const int64_t also = residual - result;
    each_curve([&](auto known) __attribute__((always_inline)) {
      const Epilogue epilogue{known.value, {curve.scalars[0], curve.scalars[1]}};
      const auto of = [=](Vector<A> z) __attribute__((always_inline)) { return activated<A, T>(epilogue, z); };
      if (residual)
        each_vector(sums, apart, to, step, rows, count,
                    [=](const T* at, Vector<A> z, int64_t valid) __attribute__((always_inline)) {
                      return of(z) + (valid == lanes ? widen(at + also) : widen_few<A>(at + also, 1, valid));
                    });
      else
        each_vector(sums, apart, to, step, rows, count,
                    [=](const T*, Vector<A> z, int64_t) __attribute__((always_inline)) { return of(z); });
    });
  }

  // All that is to do to `count` sums, whose results lie `step` apart.
  Vector<A> all(Vector<A> z, const T* to, int64_t step, int64_t count) const {
    z = activated<A, T>(curve, bound(z));
    return residual ? z + widen_few<A>(residual + (to - result), step, count) : z;
  }

 private:
  static constexpr int ARGUMENTS = 8;  // vectors that a call passes in registers

  // The many tiles of one small shape end in one function: a copy in each would be more code than the rest of them.
  template <int VECTORS, int PIXELS, int... I>
  CONVEXT_INLINE void handed(const Sums<A, PIXELS, VECTORS>& sums, A* parts, T* to, int64_t step, int64_t count,
                             Indices<I...>) const {
    together<PIXELS, VECTORS>(parts, to, step, count, sums.now[I / VECTORS][I % VECTORS]...);
  }

  template <int PIXELS, int VECTORS, class... V>
  __attribute__((noinline)) void together(A* parts, T* to, int64_t step, int64_t count, V... sums) const {
    const Vector<A> rows[] = {sums...};
    Sums<A, PIXELS, VECTORS> again(parts);
    again.each(CONVEXT_EACH2(m, v) { again.now[m.value][v.value] = rows[m.value * VECTORS + v.value]; });
    written(again, parts, to, step, count);
  }

  template <int PIXELS, int VECTORS>
  CONVEXT_INLINE void written(const Sums<A, PIXELS, VECTORS>& sums, A* parts, T* to, int64_t step,
                              int64_t count) const {
    const auto each = [&](const auto& write) __attribute__((always_inline)) {
      sums.each(CONVEXT_EACH2(m, v) {
        if (m.value < count)
          write(sums.now[m.value][v.value], to + m.value * step + v.value * lanes,
                (m.value * VECTORS + v.value) * lanes);
      });
    };
    const auto narrowed = [&](auto known) __attribute__((always_inline)) {
      each([&](Vector<A> z, T* at, int64_t) __attribute__((always_inline)) { narrow(at, with(known, bound(z))); });
    };
    if constexpr (PIXELS * VECTORS <= ARGUMENTS) {
      if (in_registers(narrowed)) return;
    } else if (is_done()) {
      return narrowed(Known<Activation::identity>{});
    }
    each([&](Vector<A> z, T*, int64_t at) __attribute__((always_inline)) { store<A>(parts + at, bound(z)); });
    rest(parts, VECTORS * lanes, to, step, count, VECTORS * lanes);
  }

  // Writes what `make(place, sums, how many)` says. What it needs it has copies of: a store could change all else. The
  // last vector of a row ends with it, and is made before sums that it shares with the one before are written over.
  template <class Make>
  static CONVEXT_INLINE void each_vector(const A* sums, int64_t apart, T* to, int64_t step, int64_t rows, int64_t count,
                                         const Make make) {
    if (apart == count && step == count) count *= rows, rows = 1;
    for (int64_t r = 0; r < rows; ++r, sums += apart, to += step) {
      if (count < lanes) {
        narrow_few<A>(to, 1, make(to, widen_few<A>(sums, 1, count), count), count);
        continue;
      }
      const int64_t end = count - lanes;
      Vector<A> last{};
      if (count % lanes) last = make(to + end, load(sums + end), lanes);
      for (int64_t j = 0; j <= end; j += lanes) narrow(to + j, make(to + j, load(sums + j), lanes));
      if (count % lanes) narrow(to + end, last);
    }
  }

  // Calls `body` with an activation that is known when it is compiled: its constants stay in registers along a loop.
  template <class Body>
  void each_curve(const Body& body) const {
    switch (curve.activation) {
      case Activation::silu:
        return body(Known<Activation::silu>{});
      case Activation::gelu:
        return body(Known<Activation::gelu>{});
      case Activation::leaky_relu:
        return body(Known<Activation::leaky_relu>{});
      case Activation::hardswish:
        return body(Known<Activation::hardswish>{});
      case Activation::hardsigmoid:
        return body(Known<Activation::hardsigmoid>{});
      case Activation::gelu_tanh:
        return body(Known<Activation::gelu_tanh>{});
      case Activation::sigmoid:
        return body(Known<Activation::sigmoid>{});
      case Activation::tanh:
        return body(Known<Activation::tanh>{});
      default:
        return body(Known<Activation::identity>{});
    }
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
