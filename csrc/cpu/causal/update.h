// A step from element to element: the taps that lie in the state are read where they lie, then the state moves on.
//
//     state        | a b c d e |  and x = f g        a ring, 12 elements seen: | k l h i j |  and x = m n
//     afterwards   | c d e f g |                                               | k l m n j |
//
// What decoding does, one element a sequence and channels of the state one behind the other, is packed(): a block's
// channels are one line, which moves as a whole. Everything else goes a vector of channels at a time.
#pragma once
#include "cpu/causal/weights.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

template <class T>
struct CausalUpdate {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const UpdateCall& call;
  const CausalProblem& p = call.problem;
  const int64_t span = (p.taps - 1) * p.dilation;

  static constexpr int64_t block = 64;

  // Channels `first` to `last` - 1 of every sequence, in order.
  void run(int64_t first, int64_t last) const {
    const bool packs = packed();
    for (int64_t c = first; c < last; c += packs ? block : lanes) {
      const int64_t valid = smaller(packs ? block : lanes, last - c);
      for (int64_t b = 0; b < call.batch; ++b) {
        if (call.rows[b] == PADDING)
          for (int64_t i = 0; i < valid * call.length; ++i)
            at(call.y, b, c + i / call.length)[i % call.length * call.y.stride[2]] = T{};
        else if (packs)
          packed_step(b, c, valid);
        else
          step(b, c, valid);
      }
    }
  }

  void step(int64_t b, int64_t c, int64_t valid) const {
    T* y = at(call.y, b, c);
    for (int64_t i = 0; i < call.length; ++i)
      write(y + i * call.y.stride[2], call.y.stride[1], activated<A, T>(p.activation, sums(b, c, i, valid)), valid);
    move_on(b, c, valid);
  }

  // ----------------------------------------------------------------------------------------------------- packed

  bool packed() const {
    const int64_t* s = call.state.stride;
    return call.length == 1 && !call.seen && s[2] == 1 && s[1] == call.state_length && call.state_length <= MOST &&
           p.taps <= MOST && call.weights.stride[1] == 1 && call.weights.stride[0] == p.taps && call.x.stride[1] == 1 &&
           call.y.stride[1] == 1;
  }

  static constexpr int64_t MOST = 16;  // elements of a state, and taps, whose lines fit on the stack

  void packed_step(int64_t b, int64_t c, int64_t valid) const {
    A weights[block * MOST + lanes], before[block * MOST + lanes], x[block + lanes], z[block + lanes];
    T *state = at(call.state, call.rows[b], c), *from = at(call.x, b, c), *y = at(call.y, b, c);
    const int64_t length = call.state_length, taps = p.taps;
    for (int64_t i = 0; i < valid * taps; i += lanes)
      store<A>(weights + i, widen_number<A>(call.weights.data, call.weights.number, c * taps + i, 1,
                                            smaller(lanes, valid * taps - i)));
    for (int64_t i = 0; i < valid * length; i += lanes)
      store<A>(before + i, read(state + i, 1, smaller(lanes, valid * length - i)));
    for (int64_t i = 0; i < valid; i += lanes) {
      const int64_t count = smaller(lanes, valid - i), bias = call.weights.bias_stride;
      store<A>(x + i, read(from + i, 1, count));
      store<A>(z + i, call.weights.bias
                          ? widen_number<A>(call.weights.bias, call.weights.bias_number, (c + i) * bias, bias, count)
                          : Vector<A>{});
    }
    if (taps == 4 && p.dilation == 1)
      add_taps<4>(weights, before + length - 3, x, z, valid);
    else
      add_taps<0>(weights, before + length - span, x, z, valid);
    for (int64_t i = 0; i < valid; i += lanes)
      write(y + i, 1, activated<A, T>(p.activation, load(z + i)), smaller(lanes, valid - i));
    if (length == 0) return;
    __builtin_memmove(state, state + 1, (valid * length - 1) * sizeof(T));
    for (int64_t i = 0; i < valid; ++i) state[(i + 1) * length - 1] = from[i];
  }

  // `before`: the first element that a tap reads, of the first channel.
  template <int TAPS>
  void add_taps(const A* weights, const A* before, const A* x, A* z, int64_t valid) const {
    const int64_t taps = TAPS ? TAPS : p.taps, dilation = TAPS ? 1 : p.dilation;
    for (int64_t i = 0; i < valid; ++i) {
      A total = weights[i * taps + taps - 1] * x[i];
      for (int64_t t = 0; t < taps - 1; ++t)
        total += weights[i * taps + t] * before[i * call.state_length + t * dilation];
      z[i] += total;
    }
  }

  // --------------------------------------------------------------------------------------------------- any strides

  Vector<A> sums(int64_t b, int64_t c, int64_t i, int64_t valid) const {
    const Weights& w = call.weights;
    Vector<A> z{};
    for (int64_t t = 0; t < p.taps; ++t) {
      const int64_t source = i - (p.taps - 1 - t) * p.dilation;
      const Vector<A> weight = widen_number<A>(w.data, w.number, c * w.stride[0] + t * w.stride[1], w.stride[0], valid);
      const T* from = source >= 0 ? at(call.x, b, c) + source * call.x.stride[2] : state(b, c, source);
      z += weight * read(from, source >= 0 ? call.x.stride[1] : call.state.stride[1], valid);
    }
    return w.bias ? z + widen_number<A>(w.bias, w.bias_number, c * w.bias_stride, w.bias_stride, valid) : z;
  }

  // The state moves on by the elements of x.
  void move_on(int64_t b, int64_t c, int64_t valid) const {
    const Rows& s = call.state;
    const int64_t length = call.state_length, stays = larger(length - call.length, 0);
    for (int64_t lane = 0; lane < valid; ++lane) {
      T* state = at(s, call.rows[b], c + lane);
      const T* x = at(call.x, b, c + lane);
      if (call.seen) {
        for (int64_t i = larger(call.length - length, 0); i < call.length; ++i)
          state[slot(b, i) * s.stride[2]] = x[i * call.x.stride[2]];
        continue;
      }
      for (int64_t i = 0; i < stays; ++i) state[i * s.stride[2]] = state[(i + call.length) * s.stride[2]];
      for (int64_t i = stays; i < length; ++i)
        state[i * s.stride[2]] = x[(i + call.length - length) * call.x.stride[2]];
    }
  }

  // Where in a ring element `i` of x, or before it, lies.
  int64_t slot(int64_t b, int64_t i) const {
    const int64_t at = (call.seen[b] + i) % call.state_length;
    return at < 0 ? at + call.state_length : at;
  }

  // Element `source` < 0 before x.
  const T* state(int64_t b, int64_t c, int64_t source) const {
    const int64_t i = call.seen ? slot(b, source) : call.state_length + source;
    return at(call.state, call.rows[b], c) + i * call.state.stride[2];
  }

  static T* at(const Rows& t, int64_t row, int64_t channel) {
    return static_cast<T*>(t.data) + row * t.stride[0] + channel * t.stride[1];
  }

  static Vector<A> read(const T* from, int64_t stride, int64_t valid) {
    return stride == 1 && valid == lanes ? widen(from) : widen_few<A>(from, stride, valid);
  }

  static void write(T* to, int64_t stride, Vector<A> value, int64_t valid) {
    if (stride == 1 && valid == lanes)
      narrow(to, value);
    else
      narrow_few<A>(to, stride, value, valid);
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
