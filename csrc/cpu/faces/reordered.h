// Gathers of tensors whose rows are innermost, by the loops of those whose channels are (innermost.h): what a job reads
// of a vector of channels is transposed into scratch, and a few rows of results at a time on their way out.
//
//     x, of 4 lanes           scratch                    results            y
//     channel a  0 1 2 ..     pixel 0  a b c d           pixel 0  a b c d   channel a  0 1 2 ..
//             b  0 1 2 ..  ─>       1  a b c d  ─taps─>        1  a b c d  ─>       b  0 1 2 ..
//             c  0 1 2 ..           2  a b c d                 2  a b c d           c  0 1 2 ..
//             d  0 1 2 ..           ..                         ..                   d  0 1 2 ..
//
// A short row fills few lanes with its columns, and every one with its channels. (oneDNN reorders whole tensors so, to
// its format nChw16c.)
#pragma once
#include "cpu/faces/innermost.h"
#include "cpu/faces/reorder.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

constexpr int64_t STAGED = 128;  // pixels of results, about, that wait for their way out

struct Reordered {
  int64_t group, vectors;  // channels of a group; vectors of channels
  Blocks blocks;
  int64_t operand_size[AXES], result_size[AXES];
  int64_t window[AXES];   // of the operand, at most, that a block reads
  int64_t rows, columns;  // of results that wait
  int64_t of_vector;      // elements that a vector of channels has prepared
};

template <class T>
inline Reordered reordered_of(const Problem& p) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count;
  const bool adjoint = p.face == Face::dgrad;
  Reordered g;
  g.group = p.c / p.groups, g.vectors = over(p.k, lanes);
  g.blocks = blocks_of<A>(p, lanes, 0, SCRATCH, p.n * g.vectors);
  for (int i = 0; i < AXES; ++i) {
    g.operand_size[i] = adjoint ? p.output[i] : p.input[i];
    g.result_size[i] = adjoint ? p.input[i] : p.output[i];
    g.window[i] = least(g.operand_size[i], reach_of(g.blocks.axis[i], g.blocks.size[i]));
  }
  const Axis &height = g.blocks.axis[1], &width = g.blocks.axis[2];
  g.columns = least(g.blocks.size[2] * width.out, g.result_size[2]);
  g.rows = least(up(over(STAGED, g.columns), height.out), g.result_size[1]);
  g.of_vector = lanes * (1 + g.group * product(p.kernel));
  return g;
}

template <class T>
inline Work reordered_work(const Problem& p) {
  using A = typename Sum<T>::type;
  const Reordered g = reordered_of<T>(p);
  const int64_t jobs = p.n * g.vectors * product(g.blocks.count), window = product(g.window) * Lanes<A>::count;
  return {jobs, (window + g.rows * g.columns * Lanes<A>::count) * int64_t(sizeof(A)),
          g.vectors * g.of_vector * int64_t(sizeof(A)), jobs * window};
}

// For each vector of channels the bias, then weights; zeros for the channels that the last one has not got.
template <class T>
void reordered_prepare(const Call& call, int64_t first_group, int64_t last_group) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count;
  const Problem& p = call.problem;
  const Reordered g = reordered_of<T>(p);
  const int64_t last = last_group * g.group;
  for (int64_t c = first_group * g.group, end = 0; c < last; c = end) {
    end = least(up(c + 1, lanes), last);  // of this vector
    A* to = static_cast<A*>(call.prepared) + c / lanes * g.of_vector;
    for (int64_t i = 0; end == p.k && end % lanes && i < g.of_vector; i += lanes)
      for (int64_t lane = end % lanes; lane < lanes; ++lane) to[i + lane] = A(0);
    to += c % lanes;
    for (int64_t i = 0; i < end - c; ++i) to[i] = call.bias ? number(static_cast<const T*>(call.bias) + c + i) : A(0);
    prepare_weights(call, static_cast<const T*>(call.b.data), c, end, to + lanes, lanes);
  }
}

// What a block of results reads of an operand of `size`.
inline Block window_at(const Blocks& blocks, const Block& block, const int64_t (&size)[AXES]) {
  Block e;
  for (int i = 0; i < AXES; ++i) {
    const Axis& axis = blocks.axis[i];
    const int64_t low = block.first[i] * axis.in + axis.low;
    e.first[i] = least(most(low, 0), size[i]);
    e.count[i] = most(least(low + reach_of(axis, block.count[i]), size[i]) - e.first[i], 0);
  }
  return e;
}

// A block of some planes to scratch. `view` becomes that of a tensor whose channels are innermost, and of which it is
// a part.
template <class A, class T>
inline void reorder_block(const Planes<const T>& from, const Block& e, A* to, View& view) {
  constexpr int64_t lanes = Lanes<A>::count;
  const int64_t *step = from.step, row = e.count[2] * lanes, plane = e.count[1] * row;
  view.stride[1] = 1, view.stride[2] = plane, view.stride[3] = row, view.stride[4] = lanes;
  view.data = to - e.first[0] * plane - e.first[1] * row - e.first[2] * lanes;
  const bool joined = step[1] == e.count[2] * step[2];  // rows follow one another
  const T* pixels = from.data + e.first[0] * step[0] + e.first[1] * step[1] + e.first[2] * step[2];
  for (int64_t z = 0; z < e.count[0]; ++z, pixels += step[0], to += plane) {
    if (joined) reorder_in(from, pixels, e.count[1] * e.count[2], to, lanes);
    for (int64_t y = 0; !joined && y < e.count[1]; ++y)
      reorder_in(from, pixels + y * step[1], e.count[2], to + y * row, lanes);
  }
}

// The planes of a vector of channels of one image.
template <class T>
inline Planes<T> planes_of(const View& v, int64_t image, int64_t channel, int64_t channels) {
  const int64_t* s = v.stride;
  return {static_cast<T*>(v.data) + image * s[0] + channel * s[1], channels, s[1], {s[2], s[3], s[4]}, {}};
}

// `p` for one vector of channels of one image.
inline Problem for_vector(Problem p, int64_t lanes) {
  p.groups = lanes / (p.c / p.groups), p.n = 1, p.c = p.k = lanes;
  return p;
}

template <class T, int GROUP>
struct ReorderedJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const Call& call;
  const Problem& p = call.problem;
  const Reordered g = reordered_of<T>(p);
  const Finish<T> finish{call};
  A *operand, *staging;
  Call inner{};  // of one vector of channels

  ReorderedJob(const Call& c, void* scratch) : call(c) {
    operand = static_cast<A*>(scratch), staging = operand + product(g.window) * lanes;
    inner.problem = for_vector(p, lanes);
    inner.result.stride[4] = lanes;
  }

  void run(int64_t job) {
    const int64_t blocks = product(g.blocks.count), vector = job / blocks % g.vectors, image = job / blocks / g.vectors;
    const int64_t channel = vector * lanes, channels = least(lanes, p.k - channel);
    const Block block = block_at(g.blocks, job % blocks);
    reorder_block(planes_of<const T>(call.a, image, channel, channels), window_at(g.blocks, block, g.operand_size),
                  operand, inner.a);
    inner.prepared = static_cast<A*>(call.prepared) + vector * g.of_vector;
    sum(block, planes_of<T>(call.result, image, channel, channels));
  }

 private:
  void sum(const Block& block, const Planes<T>& to) const {
    InnermostJob<A, GROUP> loops(inner);
    int64_t first[AXES], end[AXES];
    for (int i = 0; i < AXES; ++i) {
      const int64_t out = g.blocks.axis[i].out;
      first[i] = block.first[i] * out, end[i] = least((block.first[i] + block.count[i]) * out, g.result_size[i]);
    }
    for (int64_t z = first[0]; z < end[0]; ++z)
      for (int64_t y = first[1]; y < end[1]; y += g.rows) {
        const int64_t count = least(g.rows, end[1] - y), columns = end[2] - first[2];
        stage(loops, z, y, count, first[2], columns);
        T* pixels = to.data + z * to.step[0] + y * to.step[1] + first[2] * to.step[2];
        const bool joined = to.step[1] == columns * to.step[2];
        if (joined) reorder_out(staging, to, pixels, count * columns, finish);
        for (int64_t r = 0; !joined && r < count; ++r)
          reorder_out(staging + r * columns * lanes, to, pixels + r * to.step[1], columns, finish);
      }
  }

  // `columns` results of each of `count` rows, phase by phase (geometry.h).
  void stage(InnermostJob<A, GROUP>& loops, int64_t z, int64_t y, int64_t count, int64_t column,
             int64_t columns) const {
    const Axis &height = g.blocks.axis[1], &width = g.blocks.axis[2];
    const int64_t c = column / width.out;
    for (int64_t row = 0; row < least(height.out, count); ++row)
      for (int64_t phase = 0; phase < least(width.out, columns); ++phase)
        for (int64_t r = row; r < count; r += height.out)
          loops.part(0, z, y + r, phase, c, c + over(columns - phase, width.out),
                     staging + (r * columns - column + phase) * lanes);
  }
};

template <class T>
void reordered_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_group<typename Sum<T>::type>(call.problem, [&](auto group) {
    ReorderedJob<T, decltype(group)::value> thread(call, scratch);
    for (int64_t job = first; job < last; ++job) thread.run(job);
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
