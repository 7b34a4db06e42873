// fprop and dgrad. A job is one block of one bundle of groups of one image: its window of the operand is packed, then
// each phase of the result is summed from it.
//
// A bundle is one group, or where channels are innermost in memory, as many groups as fill a vector with channels.
#pragma once
#include "cpu/faces/channels.h"
#include "cpu/faces/finish.h"
#include "cpu/faces/pixels.h"
#include "cpu/faces/stencil.h"
#include "cpu/shared/pack.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct Gather {
  int64_t in, out;          // channels of a group, of the operand and of the result
  int64_t bundle, bundles;  // groups of a bundle, bundles of an image
  bool depthwise;           // one channel of the operand
  bool direct;              // results go to the tensor, not to a staging buffer
  bool pixels;              // they do, a vector of channels at a time
  int64_t lines;            // of weights of a group, one for each channel of the result; for pixels whole vectors
  Blocks blocks;
  int64_t operand_size[AXES], result_size[AXES];
  int64_t operand_length, staging_length, places, offsets;  // of the parts of the scratch, in elements
};

template <class T>
inline Gather gather_of(const Problem& p, const View& a, const View& result) {
  using A = typename Sum<T>::type;
  const bool adjoint = p.face == Face::dgrad;
  const int64_t c = p.c / p.groups, k = p.k / p.groups;
  Gather g;
  g.in = adjoint ? k : c, g.out = adjoint ? c : k;
  const bool innermost = p.groups > 1 && (a.stride[1] == 1 || result.stride[1] == 1);
  g.bundle = innermost ? least(p.groups, most(1, Lanes<A>::count / most(g.in, g.out))) : 1;
  g.bundles = over(p.groups, g.bundle);
  g.depthwise = g.in == 1;
  for (int i = 0; i < AXES; ++i) {
    g.operand_size[i] = adjoint ? p.output[i] : p.input[i];
    g.result_size[i] = adjoint ? p.input[i] : p.output[i];
  }
  const int64_t out_width = adjoint ? p.stride[2] : 1;
  g.direct = sizeof(T) == sizeof(A) && out_width == 1 && (result.stride[4] == 1 || g.result_size[2] == 1) &&
             (result.stride[1] != 1 || g.bundle * g.out == 1);
  g.pixels = p.groups == 1 && !g.depthwise && result.stride[1] == 1 && g.out >= Lanes<A>::count;
  g.lines = g.pixels ? up(g.out, Lanes<A>::count) : g.out;
  const int64_t planes = g.bundle * g.in, staging = g.direct || g.pixels ? 0 : g.bundle * g.out;
  const int64_t limit = g.depthwise && g.bundle == 1 ? 128 * 1024 / 4 : SCRATCH;
  g.blocks = blocks_of<A>(p, planes, staging, limit, p.n * g.bundles);
  const Blocks& b = g.blocks;
  g.operand_length = up(b.window.total, 16), g.staging_length = up(b.staged * staging, 16);
  g.places = b.size[0] * b.size[1] * over(b.size[2], Lanes<A>::count);
  g.offsets = g.in * product(p.kernel);
  return g;
}

template <class T>
inline Work gather_work(const Problem& p, const View& a, const View& result) {
  using A = typename Sum<T>::type;
  const Gather g = gather_of<T>(p, a, result);
  const int64_t floats = (g.operand_length + g.staging_length) * sizeof(A);
  const int64_t weights = p.groups * g.lines * g.in * product(p.kernel);
  return {p.n * g.bundles * product(g.blocks.count), floats + g.places * int64_t(sizeof(Place)) + g.offsets * 4 + 128,
          (weights + p.groups * g.out) * int64_t(sizeof(A)),
          p.n * g.bundles * product(g.blocks.count) * g.operand_length};
}

// The taps of one phase of the result on all axes.
struct Phases {
  Phase axis[AXES];
  int64_t at[AXES];  // the phase's number

  int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
};

// Calls `visit(phases, taps before)` for each phase.
template <class Visit>
CONVEXT_INLINE void each_phase(const Problem& p, const Axis (&axis)[AXES], const Visit& visit) {
  int64_t before = 0;
  Phases f;
  for (f.at[0] = 0; f.at[0] < axis[0].phases; ++f.at[0]) {
    f.axis[0] = phase_of(p, 0, f.at[0]);
    for (f.at[1] = 0; f.at[1] < axis[1].phases; ++f.at[1]) {
      f.axis[1] = phase_of(p, 1, f.at[1]);
      for (f.at[2] = 0; f.at[2] < axis[2].phases; ++f.at[2]) {
        f.axis[2] = phase_of(p, 2, f.at[2]);
        visit(f, before);
        before += f.taps();
      }
    }
  }
}

// The channel of the result, of a group, that a line of weights is for, and where its taps lie: one after the other, or
// for pixels beside those of a vector's other channels, the last vector being shifted back to end with the channels.
struct Line {
  int64_t channel, first, step;
};

template <class A>
inline Line line_of(const Gather& g, int64_t line, int64_t taps) {
  constexpr int64_t lanes = Lanes<A>::count;
  if (!g.pixels) return {line, line * taps, 1};
  const int64_t vector = line / lanes, lane = line % lanes;
  return {least(vector * lanes, g.out - lanes) + lane, vector * lanes * taps + lane, lanes};
}

// Weights as [phase][line][channel of the operand's group][depth][width][height], then the bias.
template <class T>
void gather_prepare(const Call& call, int64_t first_group, int64_t last_group) {
  using A = typename Sum<T>::type;
  const Problem& p = call.problem;
  const bool adjoint = p.face == Face::dgrad;
  const Gather g = gather_of<T>(p, call.a, call.result);
  const int64_t *s = call.b.stride, out_step = adjoint ? s[1] : s[0], in_step = adjoint ? s[0] : s[1];
  const T* w = static_cast<const T*>(call.b.data);
  A* prepared = static_cast<A*>(call.prepared);
  each_phase(p, g.blocks.axis, [&](const Phases& f, int64_t before) {
    const Phase &d = f.axis[0], &h = f.axis[1], &v = f.axis[2];
    const int64_t taps = g.in * f.taps();
    A* to = prepared + before * p.groups * g.lines * g.in;
    for (int64_t at = first_group * g.lines; at < last_group * g.lines; ++at) {
      const int64_t group = at / g.lines;
      const Line line = line_of<A>(g, at % g.lines, taps);
      A* tap = to + group * g.lines * taps + line.first;
      for (int64_t in = 0; in < g.in; ++in) {
        const T* from = w + group * (p.k / p.groups) * s[0] + line.channel * out_step + in * in_step;
        for (int64_t i = 0; i < d.taps; ++i)
          for (int64_t j = 0; j < v.taps; ++j)
            for (int64_t l = 0; l < h.taps; ++l, tap += line.step)
              *tap = number(from + (d.first + i * d.step) * s[2] + (h.first + l * h.step) * s[3] +
                            (v.first + j * v.step) * s[4]);
      }
    }
  });
  A* bias = prepared + p.groups * g.lines * g.in * product(p.kernel);
  for (int64_t i = first_group * g.out; i < last_group * g.out; ++i)
    bias[i] = call.bias ? number(static_cast<const T*>(call.bias) + i) : A(0);
}

// What a thread computes its jobs with.
template <class T>
struct GatherJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const Call& call;
  const Problem& p = call.problem;
  const Gather g = gather_of<T>(p, call.a, call.result);
  const Finish<T> finish{call};
  Finish<A> direct_finish;  // of sums that go to the tensor: T is A
  A *operand, *staging;
  Place* places;
  int32_t* offsets;

  GatherJob(const Call& c, void* scratch) : call(c) {
    if constexpr (sizeof(T) == sizeof(A))
      if (g.direct) direct_finish = finish;
    operand = static_cast<A*>(scratch);
    staging = operand + g.operand_length;
    places = reinterpret_cast<Place*>(staging + g.staging_length);
    offsets = reinterpret_cast<int32_t*>(places + g.places);
  }

  void run(int64_t job) {
    const int64_t blocks = product(g.blocks.count), bundle = job / blocks % g.bundles;
    const int64_t image = job / blocks / g.bundles, group = bundle * g.bundle;
    const int64_t groups = least(g.bundle, p.groups - group);
    Block block = block_at(g.blocks, job % blocks);
    const View &a = call.a, &r = call.result;
    const T* x = static_cast<const T*>(a.data) + image * a.stride[0] + group * g.in * a.stride[1];
    T* result = static_cast<T*>(r.data) + image * r.stride[0] + group * g.out * r.stride[1];
    if (!readable(a)) return sum(x, result, block, group, groups, false);
    // A row of its own: its middle is read where it lies, only its ends have zeros beside them.
    const Axis& axis = g.blocks.axis[2];
    const int64_t first = block.first[2], end = first + block.count[2];
    const int64_t lead = least(end, first + up(most(-axis.low - first, 0), lanes));
    const int64_t inside = g.operand_size[2] - axis.high - lead;  // results whose taps end inside
    const int64_t trail = lead + most(least(inside, end - lead), 0) / lanes * lanes;
    const int64_t cuts[] = {first, lead, trail, end};
    for (int i = 0; i < 3; ++i) {
      block.first[2] = cuts[i], block.count[2] = cuts[i + 1] - cuts[i];
      if (block.count[2] > 0) sum(x, result, block, group, groups, i == 1);
    }
  }

  // Whether rows have no neighbours along height and depth, and lie in memory as they would in scratch.
  bool readable(const View& a) const {
    const Axis* axis = g.blocks.axis;
    return sizeof(T) == sizeof(A) && g.depthwise && g.bundle == 1 && a.stride[4] == 1 && axis[2].in == 1 &&
           axis[2].out == 1 && g.operand_size[0] * g.operand_size[1] == 1 &&
           g.blocks.window.size[0] * g.blocks.window.size[1] == 1;
  }

  // `x` and `result` are the bundle's first planes.
  void sum(const T* x, T* result, const Block& block, int64_t group, int64_t groups, bool in_place) {
    const Blocks& b = g.blocks;
    const Window& w = b.window;
    const A* source = operand;
    if (in_place) {
      source = reinterpret_cast<const A*>(x) + block.first[2] + b.axis[2].low;
    } else {
      Planes<const T> planes{x, groups * g.in, call.a.stride[1], {}, {}};
      int64_t origin[AXES];
      Window part = w;
      for (int i = 0; i < AXES; ++i) {
        planes.step[i] = call.a.stride[2 + i], planes.size[i] = g.operand_size[i];
        origin[i] = block.first[i] * b.axis[i].in + b.axis[i].low;
        part.size[i] = reach_of(b.axis[i], block.count[i]);
      }
      pack<A>(planes, origin, part, b.axis[2].in, operand);
    }
    each_phase(p, b.axis,
               [&](const Phases& f, int64_t before) { sum_phase(source, result, block, f, before, group, groups); });
  }

  void sum_phase(const A* source, T* result, const Block& block, const Phases& f, int64_t before, int64_t group,
                 int64_t groups) {
    const Blocks& b = g.blocks;
    const View& r = call.result;
    int64_t count[AXES];
    Planes<T> to{result, groups * g.out, r.stride[1], {}, {}};
    for (int i = 0; i < AXES; ++i) {
      const int64_t of_phase = over(g.result_size[i] - f.at[i], b.axis[i].out);
      count[i] = least(block.count[i], of_phase - block.first[i]);
      if (count[i] <= 0) return;
      to.data += (block.first[i] * b.axis[i].out + f.at[i]) * r.stride[2 + i];
      to.step[i] = b.axis[i].out * r.stride[2 + i];
    }
    const int64_t taps = f.taps(), weights = g.lines * g.in * taps, all = p.groups * g.lines * g.in;
    const A* w = static_cast<const A*>(call.prepared) + before * all + group * weights;
    const A* bias = static_cast<const A*>(call.prepared) + all * product(p.kernel) + group * g.out;
    fill_offsets(f);
    if (g.pixels) return sum_rows_of_pixels(source, to, count, g.in * taps, w, bias);
    A* sums = g.direct ? reinterpret_cast<A*>(to.data) : staging;
    const int64_t plane = g.direct ? to.between : b.staged, row = g.direct ? to.step[1] : b.pitch;
    const int64_t depth = g.direct ? to.step[0] : b.pitch * count[1];
    if (!g.depthwise) fill_places(count, depth, row);
    for (int64_t i = 0; i < groups; ++i) {
      const A* x = source + i * g.in * b.window.plane;
      A* to_group = sums + i * g.out * plane;
      if (g.depthwise)
        for (int64_t out = 0; out < g.out; ++out)
          stencil(plane_of(x, to_group + out * plane, count, depth, row, f, w + i * weights + out * taps,
                           bias[i * g.out + out]));
      else
        sum_channels<A>({x, to_group, plane, places, places_of(count), offsets, g.in * taps, w + i * weights,
                         bias + i * g.out, direct_finish},
                        g.out);
    }
    if (!g.direct) unpack(staging, b.pitch, b.staged, count, to, finish);
  }

  // Weights of a few vectors of channels stay in the first-level cache for all rows of a block.
  void sum_rows_of_pixels(const A* source, const Planes<T>& to, const int64_t (&count)[AXES], int64_t taps, const A* w,
                          const A* bias) const {
    const Axis* axis = g.blocks.axis;
    const Window& window = g.blocks.window;
    for (int64_t vector = 0, done = 0; vector * lanes < g.out; vector += done)
      for (int64_t z = 0; z < count[0]; ++z)
        for (int64_t y = 0; y < count[1]; ++y) {
          const A* x = source + z * axis[0].in * window.depth + y * axis[1].in * window.row;
          T* row = to.data + z * to.step[0] + y * to.step[1];
          done = sum_pixels<T>({x, row, count[2], to.step[2], offsets, taps, w, bias, finish}, g.out, vector);
        }
  }

  Plane<A> plane_of(const A* x, A* result, const int64_t (&count)[AXES], int64_t depth, int64_t row, const Phases& f,
                    const A* w, A bias) const {
    const Window& window = g.blocks.window;
    const Axis* axis = g.blocks.axis;
    Plane<A> plane{x,
                   result,
                   {count[0], count[1], count[2]},
                   axis[0].in * window.depth,
                   axis[1].in * window.row,
                   depth,
                   row,
                   {},
                   offsets,
                   w,
                   bias,
                   0,
                   direct_finish};
    const int64_t distance[] = {window.depth, window.row, 1};
    for (int i = 0; i < AXES; ++i) {
      plane.taps.count[i] = f.axis[i].taps;
      plane.taps.distance[i] = f.axis[i].spacing * distance[i];
    }
    if (f.taps() && axis[1].in == 1 && axis[2].in == 1) plane.spacing = f.axis[1].spacing;
    return plane;
  }

  // Where each tap of each channel of a group reads, from the place of a block's first result.
  void fill_offsets(const Phases& f) {
    const Blocks& b = g.blocks;
    const Window& w = b.window;
    int32_t* to = offsets;
    const auto offset = [&](int axis, int64_t tap) {
      return f.axis[axis].offset + tap * f.axis[axis].spacing - b.axis[axis].low;
    };
    for (int64_t in = 0; in < g.in; ++in)
      for (int64_t d = 0; d < f.axis[0].taps; ++d)
        for (int64_t v = 0; v < f.axis[2].taps; ++v)
          for (int64_t h = 0; h < f.axis[1].taps; ++h) {
            const int64_t column = offset(2, v), remainders = b.axis[2].in;
            *to++ = static_cast<int32_t>(in * w.plane + offset(0, d) * w.depth + offset(1, h) * w.row +
                                         column % remainders * w.columns + column / remainders);
          }
  }

  static int64_t places_of(const int64_t (&count)[AXES]) { return count[0] * count[1] * over(count[2], lanes); }

  void fill_places(const int64_t (&count)[AXES], int64_t depth, int64_t row) {
    const Axis* axis = g.blocks.axis;
    const Window& w = g.blocks.window;
    Place* to = places;
    for (int64_t z = 0; z < count[0]; ++z)
      for (int64_t y = 0; y < count[1]; ++y)
        for (int64_t c = 0; c < count[2]; c += lanes)
          *to++ = {static_cast<int32_t>(z * axis[0].in * w.depth + y * axis[1].in * w.row + c),
                   static_cast<int32_t>(least(lanes, count[2] - c)), z * depth + y * row + c};
  }
};

template <class T>
void gather_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  GatherJob<T> thread(call, scratch);
  for (int64_t job = first; job < last; ++job) thread.run(job);
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
