// Where the taps of a face read, and the blocks that it is computed in.
//
// fprop and dgrad are gathers: on each axis
//
//     result[m * out + phase] = sum over the taps of that phase of operand[m * in + offset(tap)] * w[tap]
//
// with in = stride and one phase for fprop, out = stride and as many phases for dgrad. The taps of a phase are every
// so many of the kernel's, and their offsets lie evenly: each phase is a convolution of its own.
#pragma once
#include "cpu/shared/vector.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

CONVEXT_INLINE constexpr int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

CONVEXT_INLINE int64_t most(int64_t a, int64_t b) {
  return a > b ? a : b;
}

CONVEXT_INLINE int64_t over(int64_t a, int64_t b) {  // a / b, rounded up, of a >= 0
  return (a + b - 1) / b;
}

CONVEXT_INLINE int64_t up(int64_t a, int64_t b) {  // to a multiple of b
  return over(a, b) * b;
}

CONVEXT_INLINE int64_t product(const int64_t* v) {
  return v[0] * v[1] * v[2];
}

// The step from neighbour to neighbour where elements of three axes lie as those of one, else 0. Axes of size 1 have no
// step.
inline int64_t joined_step(const int64_t* size, const int64_t* step) {
  int64_t apart = 1, count = 1;
  for (int i = AXES - 1; i >= 0; --i) {
    if (size[i] == 1) continue;
    if (count == 1) apart = step[i];
    if (step[i] != apart * count) return 0;
    count *= size[i];
  }
  return apart;
}

CONVEXT_INLINE int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b, b = rest;
  }
  return a;
}

// Taps first, first + step, .. of an axis, whose offsets are offset, offset + spacing, ..
struct Phase {
  int64_t first = 0, step = 1, taps = 0, offset = 0, spacing = 1;
};

inline Phase phase_of(const Problem& p, int axis, int64_t phase) {
  const int64_t stride = p.stride[axis], dilation = p.dilation[axis], kernel = p.kernel[axis], pad = p.pad[axis];
  if (p.face != Face::dgrad) return {0, 1, kernel, -pad, dilation};
  Phase found;
  const int64_t common = gcd(stride, dilation), step = stride / common;
  int64_t tap = 0;
  while (tap < least(kernel, step) && (phase + pad - tap * dilation) % stride != 0) ++tap;
  if (tap >= least(kernel, step)) return found;  // no tap reaches this phase
  found.taps = over(kernel - tap, step);
  found.first = tap + (found.taps - 1) * step;  // the last tap has the least offset
  found.step = -step;
  found.offset = (phase + pad - found.first * dilation) / stride;
  found.spacing = dilation / common;
  return found;
}

struct Axis {
  int64_t in, out;    // how far one step of m goes in the operand and in the result
  int64_t phases;     // of the result
  int64_t count;      // of m
  int64_t low, high;  // least and greatest offset of a tap
};

inline Axis axis_of(const Problem& p, int axis) {
  const bool adjoint = p.face == Face::dgrad;
  Axis a;
  a.in = adjoint ? 1 : p.stride[axis];
  a.out = adjoint ? p.stride[axis] : 1;
  const int64_t size = adjoint ? p.input[axis] : p.output[axis];
  a.count = over(size, a.out);
  a.phases = least(a.out, size);
  a.low = 0, a.high = 0;
  bool any = false;
  for (int64_t phase = 0; phase < a.phases; ++phase) {
    const Phase f = phase_of(p, axis, phase);
    if (f.taps == 0) continue;
    const int64_t last = f.offset + (f.taps - 1) * f.spacing;
    a.low = any ? least(a.low, f.offset) : f.offset;
    a.high = any ? most(a.high, last) : last;
    any = true;
  }
  return a;
}

// How many elements of the operand `count` neighbouring m read.
CONVEXT_INLINE int64_t reach_of(const Axis& axis, int64_t count) {
  return (count - 1) * axis.in + axis.high - axis.low + 1;
}

// Planes of the operand, copied to scratch with zeros around them. A row's columns lie by their remainder modulo the
// axis's `in`, so that the columns that one tap reads for neighbouring m are neighbours.
struct Window {
  int64_t size[AXES];                // depth, rows and columns of the operand that a block reads
  int64_t columns;                   // of one remainder, with room for whole vectors
  int64_t row, depth, plane, total;  // distances in scratch, and its length
};

// Blocks of m, and what one needs.
struct Blocks {
  Axis axis[AXES];
  int64_t size[AXES], count[AXES];
  Window window;
  int64_t pitch, staged;  // columns of a row of results in whole vectors; results of a block in one plane
};

template <class A>
inline Window window_of(const Axis (&axis)[AXES], const int64_t (&size)[AXES], int64_t planes) {
  constexpr int64_t lanes = Lanes<A>::count;
  Window w;
  for (int i = 0; i < AXES; ++i) w.size[i] = reach_of(axis[i], size[i]);
  w.columns = up(up(size[2], lanes) + (axis[2].high - axis[2].low) / axis[2].in + 1, lanes);
  w.row = w.columns * axis[2].in;
  w.depth = w.row * w.size[1];
  w.plane = w.depth * w.size[0] + lanes;
  w.total = w.plane * planes + 4 * lanes;
  return w;
}

// Elements of scratch that a thread may fill, where a block needs several planes: as vectors of channels grow wider,
// more of them lie side by side, and their windows' borders would be most of a small block.
constexpr int64_t SCRATCH = (VECTOR_BYTES == 64 ? 640 : 320) * 1024 / 4;

// Blocks whose windows of `planes` planes and whose `staging` planes of results fit in `limit` elements, and are many
// enough to share among threads.
template <class A>
inline Blocks blocks_of(const Problem& p, int64_t planes, int64_t staging, int64_t limit, int64_t others) {
  constexpr int64_t lanes = Lanes<A>::count, fewest = 16, smallest = 8192;  // jobs; products of one that is shared
  Blocks b;
  for (int i = 0; i < AXES; ++i) b.axis[i] = axis_of(p, i), b.size[i] = most(b.axis[i].count, 1);
  for (;;) {
    b.window = window_of<A>(b.axis, b.size, planes);
    b.pitch = up(b.size[2], lanes);
    b.staged = b.size[0] * b.size[1] * b.pitch;
    int64_t jobs = others;
    for (int i = 0; i < AXES; ++i) b.count[i] = over(b.axis[i].count, b.size[i]), jobs *= b.count[i];
    const bool fits = b.window.total + b.staged * staging <= limit;
    if (fits && (jobs >= fewest || b.staged * planes < smallest)) return b;
    if (b.size[0] > 1)
      b.size[0] = over(b.size[0], 2);
    else if (b.size[1] > 8)
      b.size[1] = over(b.size[1], 2);
    else if (b.size[2] > 512)
      b.size[2] = up(over(b.size[2], 2), lanes);
    else if (!fits && b.size[1] > 1)
      b.size[1] = over(b.size[1], 2);
    else
      return b;
  }
}

// Block `index`: its first m and how many.
struct Block {
  int64_t first[AXES], count[AXES];
};

inline Block block_at(const Blocks& b, int64_t index) {
  Block block;
  for (int i = AXES - 1; i >= 0; --i) {
    block.first[i] = index % b.count[i] * b.size[i];
    block.count[i] = least(b.size[i], b.axis[i].count - block.first[i]);
    index /= b.count[i];
  }
  return block;
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
