// One block of channels of a sequence: window after window of it goes through scratch, and what the next one needs of
// the last is carried over. In positions of the sequence, with a span of 3 and windows of 8:
//
//     x in scratch         [-3 -2 -1 | 0 .. 7 ]  then  [ 5 6 7 | 8 .. 15 ]      the state or zeros, or what was carried
//     the gradient by z    [ 0  0  0 | 0 .. 7 ]  then  [ 5 6 7 | 8 .. 15 ]
//     the gradient by x    of -3 .. 4            then  of 5 .. 12               before 0: that of the state
#pragma once
#include "cpu/causal/walk.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// How a call is cut: the same for every number of threads.
struct Cut {
  int64_t span;              // positions that a state holds
  int64_t channels, blocks;  // of a block, and how many
  int64_t pitch;             // from position to position in scratch
  int64_t window;            // positions
  int64_t padded;            // channels of the prepared weights
  int64_t front;             // elements of scratch before a window's own `span`: its positions begin on a cache line
  int64_t length, weights, sums;  // elements of the scratch: of each of two windows, of weights, of sums
};

template <class A>
inline Cut cut_of(const CausalProblem& p) {
  constexpr int64_t lanes = Lanes<A>::count, wide = 8 * lanes;
  Cut cut;
  cut.span = (p.taps - 1) * p.dilation;
  cut.channels = p.channels_innermost ? smaller(wide, (p.channels + lanes - 1) / lanes * lanes) : 1;
  cut.blocks = (p.channels + cut.channels - 1) / cut.channels;
  cut.pitch = cut.channels;
  cut.window = larger(p.channels_innermost ? 32 : 1024, cut.span);
  cut.padded = (p.channels + lanes - 1) / lanes * lanes + wide;
  cut.front = (lanes - cut.span * cut.pitch % lanes) % lanes;
  cut.length = ((cut.front + (cut.span + cut.window) * cut.pitch) / lanes + 2) * lanes;
  cut.weights = cut.sums = (p.taps + 1) * lanes;
  return cut;
}

template <class T>
inline CausalWork causal_work(const CausalCall& call, bool backward) {
  using A = typename Sum<T>::type;
  const Cut cut = cut_of<A>(call.problem);
  constexpr int64_t fewest = 16;  // jobs of a backward pass
  CausalWork work;
  work.shares = backward ? smaller(call.count, (fewest + cut.blocks - 1) / cut.blocks) : 1;
  work.jobs = cut.blocks * (backward ? work.shares : call.count);
  work.scratch_bytes = (2 * cut.length + cut.weights + cut.sums) * int64_t(sizeof(A));
  work.prepared_bytes = (call.problem.taps + 1) * cut.padded * int64_t(sizeof(A));
  return work;
}

template <class T, int TAPS>
struct CausalJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const CausalCall& call;
  const CausalProblem& p = call.problem;
  const Cut cut = cut_of<A>(p);
  A *x, *by_z, *weights, *sums;
  int64_t first, channels;  // of the block

  CausalJob(const CausalCall& c, void* scratch) : call(c) {
    A* const begin = static_cast<A*>(scratch);
    x = begin + cut.front;
    by_z = x + cut.length;
    weights = begin + 2 * cut.length;
    sums = weights + cut.weights;
    for (int64_t i = 0; i < 2 * cut.length; ++i) begin[i] = A(0);  // lanes that hold nothing are multiplied too
  }

  // ------------------------------------------------------------------------------------------------------ blocks

  void forward(int64_t job) {
    const Sequence& s = call.sequences[job / cut.blocks];
    begin_block(job % cut.blocks);
    if (s.state == PADDING) return padding(s);
    // What has to be widened pays more for the shuffles than for scratch.
    if constexpr (sizeof(T) == sizeof(A) && TAPS > 0 && TAPS <= lanes)
      if (!p.channels_innermost && p.dilation == 1 && call.x.stride[2] == 1) return forward_row(s);
    before(s);
    for (int64_t at = s.begin; at < s.end; at += cut.window) {
      const int64_t count = smaller(cut.window, s.end - at);
      widen_window(s, at, count);
      walks(count, call.y, [&](const Walk& w, int64_t offset, int64_t memory, const Weighted<A, TAPS>& weighted) {
        const T* residual = call.residual.data ? element(call.residual, s.row, at) + memory : nullptr;
        T* y = element(call.y, s.row, at) + memory;
        walk_forward<A, TAPS, T>(p.activation, weighted, w, x + cut.span * cut.pitch + offset, residual, y);
      });
      carry(x, count);
    }
  }

  void forward_row(const Sequence& s) {
    Vector<A> last{};  // of what comes before
    if (s.state >= 0) {
      before(s);
      last = load(x + cut.span - lanes);
    }
    const T* residual = call.residual.data ? element(call.residual, s.row, s.begin) : nullptr;
    walk_row<A, TAPS, T>(p.activation, Weighted<A, TAPS>(weights, lanes, p.taps), s.end - s.begin, last,
                         element(call.x, s.row, s.begin), residual, element(call.y, s.row, s.begin));
  }

  void backward(int64_t job, int64_t shares) {
    const int64_t share = job / cut.blocks;
    begin_block(job % cut.blocks);
    A* share_sums = static_cast<A*>(call.sums) + (share * p.channels + first) * (p.taps + 1);
    for (int64_t i = 0; i < channels * (p.taps + 1); ++i) share_sums[i] = A(0);
    for (int64_t i = call.count * share / shares; i < call.count * (share + 1) / shares; ++i)
      backward(call.sequences[i], share_sums);
  }

  void backward(const Sequence& s, A* share_sums) {
    if (s.state == PADDING) return padding(s);
    before(s);
    for (int64_t i = 0; i < cut.span * cut.pitch; ++i) by_z[i] = A(0);
    for (int64_t at = s.begin; at < s.end; at += cut.window) {
      const int64_t count = smaller(cut.window, s.end - at), here = cut.span * cut.pitch;
      widen_window(s, at, count);
      walks(count, call.grad, [&](const Walk& w, int64_t offset, int64_t memory, const Weighted<A, TAPS>& weighted) {
        for (int64_t i = 0; i < cut.sums; ++i) sums[i] = A(0);
        const T* grad = element(call.grad, s.row, at) + memory;
        walk_backward<A, TAPS, T>(p.activation, weighted, w, x + here + offset, grad, by_z + here + offset, sums);
        add_sums(p.channels_innermost ? offset : 0, w.valid, share_sums);
      });
      input(s, at - cut.span, count);
      carry(x, count);
      carry(by_z, count);
    }
    for (int64_t i = cut.span * cut.pitch; i < 2 * cut.span * cut.pitch; ++i) by_z[i] = A(0);
    input(s, s.end - cut.span, cut.span);
  }

  // ------------------------------------------------------------------------------------------------------- parts

  void begin_block(int64_t block) {
    first = block * cut.channels;
    channels = smaller(cut.channels, p.channels - first);
    if (p.channels_innermost) return;
    const A* prepared = static_cast<const A*>(call.prepared) + first;
    for (int64_t t = 0; t <= p.taps; ++t) store<A>(weights + t * lanes, broadcast(prepared[t * cut.padded]));
  }

  T* element(const Rows& t, int64_t row, int64_t position) const {
    return static_cast<T*>(t.data) + row * t.stride[0] + first * t.stride[1] + position * t.stride[2];
  }

  // Calls body(walk, offset in the window, offset in `t`'s memory, weights) for each walk of `count` positions.
  template <class Body>
  void walks(int64_t count, const Rows& t, const Body& body) const {
    if (p.channels_innermost) {
      const A* prepared = static_cast<const A*>(call.prepared) + first;
      for (int64_t c = 0; c < channels; c += lanes)
        body(Walk{count, cut.pitch, p.dilation * cut.pitch, smaller(lanes, channels - c), t.stride[2]}, c, c,
             Weighted<A, TAPS>(prepared + c, cut.padded, p.taps));
      return;
    }
    const Weighted<A, TAPS> weighted(weights, lanes, p.taps);
    const int64_t whole = count / lanes, rest = count % lanes;
    if (whole) body(Walk{whole, lanes, p.dilation, lanes, lanes}, 0, 0, weighted);
    if (rest) body(Walk{1, lanes, p.dilation, rest, lanes}, whole * lanes, whole * lanes, weighted);
  }

  // What comes before a sequence, to the front of the window.
  void before(const Sequence& s) {
    for (int64_t i = 0; i < cut.span * cut.pitch; ++i) x[i] = A(0);
    if (s.state >= 0) widen_to(call.states, s.state, 0, cut.span, x);
  }

  void widen_window(const Sequence& s, int64_t at, int64_t count) {
    widen_to(call.x, s.row, at, count, x + cut.span * cut.pitch);
  }

  // Positions of the block's channels, of any strides, to a window.
  void widen_to(const Rows& t, int64_t row, int64_t at, int64_t count, A* to) const {
    const T* from = element(t, row, at);
    if (p.channels_innermost) {
      for (int64_t i = 0; i < count; ++i, from += t.stride[2], to += cut.pitch)
        widen_line(from, t.stride[1], channels, to);
    } else {
      widen_line(from, t.stride[2], count, to);
    }
  }

  // Zeros behind the last: an infinity that was left there must not meet a zero.
  static void widen_line(const T* from, int64_t stride, int64_t count, A* to) {
    int64_t i = 0;
    if (stride == 1)
      for (; i + lanes <= count; i += lanes) store<A>(to + i, widen(from + i));
    for (; i < count; i += lanes) store<A>(to + i, widen_few<A>(from + i * stride, stride, smaller(lanes, count - i)));
  }

  void carry(A* window, int64_t count) const {
    for (int64_t i = 0; i < cut.span * cut.pitch; ++i) window[i] = window[count * cut.pitch + i];
  }

  void add_sums(int64_t column, int64_t valid, A* share_sums) const {
    for (int64_t t = 0; t <= p.taps; ++t) {
      if (p.channels_innermost)
        for (int64_t c = 0; c < valid; ++c) share_sums[(column + c) * (p.taps + 1) + t] += sums[t * lanes + c];
      else
        share_sums[t] += sum<A>(load(sums + t * lanes));
    }
  }

  // The gradients by x at `count` positions from `at` on, whose gradients by z begin in front of the window.
  void input(const Sequence& s, int64_t at, int64_t count) {
    const int64_t states = smaller(count, larger(s.begin - at, 0));
    if (call.by_states.data && s.state >= 0)
      for (int64_t i = 0; i < states; ++i) state_input(s, at - s.begin + cut.span + i, by_z + i * cut.pitch);
    walks(count - states, call.by_x,
          [&](const Walk& w, int64_t offset, int64_t memory, const Weighted<A, TAPS>& weighted) {
            T* by_x = element(call.by_x, s.row, at + states) + memory;
            walk_input<A, TAPS, T>(weighted, w, by_z + states * cut.pitch + offset, by_x);
          });
  }

  // The same at one position of the state.
  void state_input(const Sequence& s, int64_t position, const A* from) const {
    const A* prepared = static_cast<const A*>(call.prepared) + first;
    T* to = element(call.by_states, s.state, position);
    for (int64_t c = 0; c < channels; ++c) {
      A value = A(0);
      for (int64_t t = 0; t < p.taps; ++t)
        value += prepared[t * cut.padded + c] * from[(p.taps - 1 - t) * p.dilation * cut.pitch + c];
      narrow_few<A>(to + c * call.by_states.stride[1], 1, broadcast(value), 1);
    }
  }

  // Zeros, and the residual in a forward pass.
  void padding(const Sequence& s) {
    const bool forward = call.y.data != nullptr;
    const Rows& to = forward ? call.y : call.by_x;
    for (int64_t at = s.begin; at < s.end; ++at)
      for (int64_t c = 0; c < channels; ++c) {
        const Rows& residual = call.residual;
        T zero{};
        T* result = element(to, s.row, at) + c * to.stride[1];
        *result = forward && residual.data ? element(residual, s.row, at)[c * residual.stride[1]] : zero;
      }
  }
};

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
