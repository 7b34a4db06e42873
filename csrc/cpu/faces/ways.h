// The ways to compute a face, by how its images lie.
//
//     in place    channels are innermost    innermost.h, innermost_wgrad.h    vectors of channels, where they lie
//     reordered   they are not              reordered.h, reordered_wgrad.h    the same of scratch, transposed
//     outer       one group of many         dense_wgrad.h                     outer products of pixels' channels
//     packed      anything, of any groups   gather.h, wgrad.h                 vectors of columns, of padded scratch
#pragma once
#include "cpu/faces/innermost.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

enum class Way { in_place, reordered, outer, packed };

// Long rows of a few taps, which are read where they lie (gather.h), are over before they are transposed.
template <class T>
inline bool is_short_filter(const Problem& p) {
  constexpr int64_t longest = 7, shortest_row = 1024;
  const bool one_axis = p.input[0] * p.input[1] * p.kernel[0] * p.kernel[1] == 1;
  return one_axis && sizeof(T) == sizeof(typename Sum<T>::type) && p.kernel[2] <= longest &&
         p.output[2] >= shortest_row;
}

// Whether rows that may be summed as they lie are faster so than as blocks of channels.
//
// Zen 3 with 8 lanes: 3x3, 5x5 and 7x7 on 28x28 are 1.06 to 1.21 times as fast, on 56x56 1.26 to 1.59, on 16x16 0.8
// to 0.9; groups of two on 28x28 0.91 to 0.98, on 40x40 1.02 to 1.07, of four and eight on 28x28 1.03 to 1.14.
//
// Zen 5 with 16 lanes: what counts is how much of its vectors a row fills, beside what channels fill of their blocks.
//
//     columns, of whole vectors    28, 1.75    32, 2    36, 2.25    44, 2.75    56, 3.5    64, 4    112, 7
//     depthwise                    0.8-0.9     1.0-1.4   0.8-1.0    1.0-1.1     1.0-1.3    1.3-1.8  1.2-1.3
//     groups of four               0.8-0.9     1.0-1.1   0.8        1.0         0.9        1.1-1.3  1.1-1.2
//     groups of eight              1.0-1.1     1.1-1.2   0.9-1.0    1.1-1.2     1.0-1.1    1.2-1.4  1.2-1.4
//
// and groups of two 0.6 to 0.9, but with whole vectors 0.8 to 1.1.
template <class A>
inline bool rows_pay(const Problem& p) {
  constexpr int64_t lanes = Lanes<A>::count;
  const int64_t group = p.c / p.groups, width = p.face == Face::dgrad ? p.input[2] : p.output[2];
  if (lanes < 16) return 2 * width >= (group == 2 ? 10 : 7) * lanes;
  const int64_t sixteenths = group == 4 ? 15 : 14;  // of a row's vectors, at least
  return group != 2 && width >= 2 * lanes && 16 * width * up(p.k, lanes) >= sixteenths * up(width, lanes) * p.k;
}

// From so many taps on what they read is read so often that it pays to lay it together first, widened where it has to
// be: weights of one vector of channels would lie a power of two apart where there is such a number of channels, and
// share the sets of a cache.
template <class T>
constexpr int64_t many_taps(Face) {
  return 144;
}
template <>
constexpr int64_t many_taps<bfloat16>(Face face) {
  return face == Face::wgrad ? 25 : 49;
}
template <>
constexpr int64_t many_taps<float16>(Face) {
  return 9;
}

// From so many where pixels do, too (7x7 of 1024 channels took 2.4 times the time of 1008).
constexpr int64_t MANY_OF_POWERS = 49, POWER = 2048;  // taps; bytes

template <class T>
inline int64_t many_taps(const Problem& p, const View& x) {
  const bool power = x.stride[4] * int64_t(sizeof(T)) % POWER == 0;
  return power ? least(MANY_OF_POWERS, many_taps<T>(p.face)) : many_taps<T>(p.face);
}

template <class T>
inline Way way_of(const Call& call) {
  using A = typename Sum<T>::type;
  const Problem& p = call.problem;
  const bool wgrad = p.face == Face::wgrad;
  const View &first = call.a, &second = wgrad ? call.b : call.result;
  const int64_t group = p.c / p.groups;
  const bool many = p.c > 4 && most(p.c, p.k) > widest_group<float>;  // channels: fewer are too few sums of a tile
  if (wgrad && p.groups == 1 && many) return Way::outer;
  if (p.c != p.k || p.k < Lanes<A>::count || !is_compiled<A>(group)) return Way::packed;
  const bool innermost = first.stride[1] == 1 && second.stride[1] == 1;
  if (innermost && product(p.kernel) < many_taps<T>(p, first))
    return is_compiled<T>(group) ? Way::in_place : Way::packed;
  const bool rows = is_short_filter<T>(p) || (call.may_be_rows && rows_pay<A>(p));
  return !innermost && !wgrad && rows ? Way::packed : Way::reordered;
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
