// Copies between tensors of any strides and planes of scratch: pack() reads a window, with zeros outside the tensor,
// unpack() writes a block of results.
#pragma once
#include "cpu/shared/geometry.h"
#include "cpu/shared/number.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

// Planes that lie side by side in the tensor (channels last), or do not. To be unpacked, up to a vector of the former.
template <class T>
struct Planes {
  T* data;
  int64_t count, between;  // elements between neighbouring planes
  int64_t step[AXES];      // along depth, height and width
  int64_t size[AXES];
};

// Zeros; up to a vector more than `count`, where rows that are written later begin.
template <class A>
CONVEXT_INLINE void clear(A* row, int64_t count) {
  for (A* const end = row + count; row < end; row += Lanes<A>::count) {
    __asm__("" : "+r"(row));  // no call of memset: most rows have a vector of zeros at either end
    store<A>(row, Vector<A>{});
  }
}

// `count` elements `step` apart to `row`; what follows them there may be overwritten. The last vector of a row begins
// where it ends with the row, over elements that are already there.
template <class A, class T>
CONVEXT_INLINE void pack_row(A* row, const T* from, int64_t step, int64_t count) {
  constexpr int64_t lanes = Lanes<A>::count;
  if (step == 1 && count >= lanes) {
    for (int64_t j = 0; j + lanes <= count; j += lanes) store<A>(row + j, widen(from + j));
    store<A>(row + count - lanes, widen(from + count - lanes));
    return;
  }
  for (int64_t j = 0; j < count; j += lanes)
    store<A>(row + j, widen_few<A>(from + j * step, step, least(lanes, count - j)));
}

// The same for up to a vector of planes that lie side by side, each to its own row, `plane` apart.
template <class A, class T>
CONVEXT_INLINE void pack_pixels(A* row, int64_t plane, int64_t planes, const T* from, int64_t step, int64_t count) {
  constexpr int64_t lanes = Lanes<A>::count;
  for (int64_t j = 0; j < count; j += lanes) {
    Vector<A> pixels[lanes];
    const int64_t left = least(lanes, count - j);
    for (int64_t i = 0; i < lanes; ++i) {
      const T* pixel = from + (j + i) * step;
      pixels[i] = i >= left ? Vector<A>{} : planes == lanes ? widen(pixel) : widen_few<A>(pixel, 1, planes);
    }
    transpose<A>(pixels);
    for (int64_t i = 0; i < planes; ++i) store<A>(row + i * plane + j, pixels[i]);
  }
}

// pack() of columns that lie side by side in the tensor as in scratch: what is the same for all rows is known before.
template <class A, class T>
inline void pack_rows(const Planes<const T>& from, const int64_t (&origin)[AXES], const Window& w, A* scratch) {
  const int64_t lead = least(most(-origin[2], 0), w.columns);
  const int64_t end = least(most(from.size[2] - origin[2], lead), w.columns);
  for (int64_t i = 0; i < from.count; ++i)
    for (int64_t z = 0; z < w.size[0]; ++z) {
      const int64_t depth = origin[0] + z;
      const bool inside = depth >= 0 && depth < from.size[0] && end > lead;
      const int64_t first = inside ? least(most(-origin[1], 0), w.size[1]) : w.size[1];
      const int64_t last = inside ? least(most(from.size[1] - origin[1], first), w.size[1]) : w.size[1];
      A* row = scratch + i * w.plane + z * w.depth;
      clear(row, first * w.row);
      row += first * w.row;
      const T* line = from.data + i * from.between + depth * from.step[0] + (origin[1] + first) * from.step[1];
      for (int64_t y = first; y < last; ++y, row += w.row, line += from.step[1]) {
        clear(row, lead);
        pack_row(row + lead, line + origin[2] + lead, 1, end - lead);
        clear(row + end, w.columns - end);
      }
      clear(row, (w.size[1] - last) * w.row);
    }
}

// Fills the window whose first element is `origin` of the tensor's planes.
template <class A, class T>
inline void pack(const Planes<const T>& from, const int64_t (&origin)[AXES], const Window& w, int64_t remainders,
                 A* scratch) {
  constexpr int64_t lanes = Lanes<A>::count;
  const bool pixels = from.between == 1 && from.count > 1;
  if (!pixels && remainders == 1 && from.step[2] == 1) return pack_rows(from, origin, w, scratch);
  for (int64_t z = 0; z < w.size[0]; ++z)
    for (int64_t y = 0; y < w.size[1]; ++y) {
      const int64_t depth = origin[0] + z, height = origin[1] + y;
      const bool inside = depth >= 0 && depth < from.size[0] && height >= 0 && height < from.size[1];
      A* rows = scratch + z * w.depth + y * w.row;
      const T* line = from.data + depth * from.step[0] + height * from.step[1];
      for (int64_t r = 0; r < remainders; ++r, rows += w.columns) {
        const int64_t column = origin[2] + r;  // of the first element; the others follow at `remainders`
        const int64_t lead = column < 0 ? least(over(-column, remainders), w.columns) : 0;
        const int64_t end = inside && column < from.size[2] ? over(from.size[2] - column, remainders) : 0;
        const int64_t count = most(least(end, w.columns) - lead, 0);
        const T* first = line + (column + lead * remainders) * from.step[2];
        const int64_t step = remainders * from.step[2], after = lead + count;
        for (int64_t i = 0; i < from.count; ++i) {
          clear(rows + i * w.plane, lead);
          if (!pixels && count) pack_row(rows + i * w.plane + lead, first + i * from.between, step, count);
        }
        for (int64_t i = 0; pixels && count && i < from.count; i += lanes)
          pack_pixels(rows + i * w.plane + lead, w.plane, least(lanes, from.count - i), first + i, step, count);
        for (int64_t i = 0; i < from.count; ++i) clear(rows + i * w.plane + after, w.columns - after);
      }
    }
}

// Writes a block of `count` results, rows of `pitch` in planes of scratch `plane` apart, to the tensor's planes, each
// vector as `finish.all` makes it of sums.
template <class A, class T, class Finish>
inline void unpack(const A* scratch, int64_t pitch, int64_t plane, const int64_t (&count)[AXES], const Planes<T>& to,
                   const Finish& finish) {
  constexpr int64_t lanes = Lanes<A>::count;
  const bool pixels = to.between == 1 && to.count > 1 && to.count <= lanes;
  for (int64_t z = 0; z < count[0]; ++z)
    for (int64_t y = 0; y < count[1]; ++y) {
      const A* rows = scratch + (z * count[1] + y) * pitch;
      T* line = to.data + z * to.step[0] + y * to.step[1];
      for (int64_t j = 0; j < count[2]; j += lanes) {
        const int64_t left = least(lanes, count[2] - j);
        if (!pixels) {
          for (int64_t i = 0; i < to.count; ++i) {
            T* const at = line + i * to.between + j * to.step[2];
            narrow_few<A>(at, to.step[2], finish.all(load(rows + i * plane + j), at, to.step[2], left), left);
          }
          continue;
        }
        Vector<A> values[lanes];
        for (int64_t i = 0; i < lanes; ++i) values[i] = i < to.count ? load(rows + i * plane + j) : Vector<A>{};
        transpose<A>(values);
        for (int64_t i = 0; i < left; ++i) {
          T* const at = line + (j + i) * to.step[2];
          narrow_few<A>(at, 1, finish.all(values[i], at, 1, to.count), to.count);
        }
      }
    }
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
