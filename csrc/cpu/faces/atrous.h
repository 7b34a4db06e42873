// A dilated convolution as several undilated ones, each of every so many elements of an axis, where windows of
// neighbouring elements hold mostly what no tap reads. With common = gcd(stride, dilation), on each axis
//
//     i = o * stride + t * dilation - pad
//     o = r + o' * dilation / common,   i = s + i' * dilation,   i' = o' * stride / common + t - pad'
//
//     dilation 3    x  0 1 2 0 1 2 0 1 2     three convolutions, of the elements numbered 0, 1 and 2: what one result
//                   y  0 1 2 0 1 2 0 1 2     reads of its own are neighbours there
//
// (The "algorithme à trous" read backwards: Holschneider et al. 1989; TensorFlow's space_to_batch does it by copies.)
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/faces/kernels.h"

namespace convext {
namespace cpu {

inline int64_t bytes_of(Number number) {
  return number == Number::float64 ? 8 : number == Number::float32 ? 4 : 2;
}

// What one of the convolutions has of an axis.
struct Residue {
  int64_t x_first, x_size, x_step;
  int64_t y_first, y_size, y_step;
  int64_t pad;
};

inline bool splits(const Problem& p, int axis) {
  // An input gradient with a stride has elements that no tap reaches: its phases are convolutions already.
  return p.dilation[axis] > 1 && p.kernel[axis] > 1 && (p.face != Face::dgrad || p.stride[axis] == 1);
}

inline int64_t residues_of(const Problem& p, int axis) {
  if (!splits(p, axis)) return 1;
  if (p.face == Face::dgrad) return std::min(p.dilation[axis], p.input[axis]);
  return std::min(p.dilation[axis] / std::gcd(p.stride[axis], p.dilation[axis]), p.output[axis]);
}

inline Residue residue_of(const Problem& p, int axis, int64_t index) {
  const int64_t dilation = p.dilation[axis], stride = p.stride[axis], pad = p.pad[axis];
  const auto every = [](int64_t size, int64_t first, int64_t step) {
    return size > first ? (size - first + step - 1) / step : 0;
  };
  Residue r;
  r.x_step = dilation, r.y_step = dilation / std::gcd(stride, dilation);
  r.y_first = p.face == Face::dgrad ? (index + pad) % dilation : index;
  const int64_t reads = r.y_first * stride - pad;  // the first tap of the first result
  r.x_first = (reads % dilation + dilation) % dilation;
  r.pad = (r.x_first - reads) / dilation;
  r.x_size = every(p.input[axis], r.x_first, r.x_step), r.y_size = every(p.output[axis], r.y_first, r.y_step);
  return r;
}

// Restricts one axis of `call` to a residue.
inline void restrict_to(Call& call, int axis, int64_t index) {
  Problem& p = call.problem;
  const Residue r = residue_of(p, axis, index);
  View* const ofs[] = {&call.a, &call.b, &call.result};
  View* const x = p.face == Face::dgrad ? ofs[2] : ofs[0];
  View* const y = p.face == Face::fprop ? ofs[2] : p.face == Face::dgrad ? ofs[0] : ofs[1];
  const int64_t bytes = bytes_of(p.number);
  const auto every = [&](View* view, int64_t first, int64_t step) {
    const int64_t offset = first * view->stride[2 + axis] * bytes;
    view->data = static_cast<char*>(view->data) + offset;
    if (view == &call.result && call.residual) call.residual = static_cast<const char*>(call.residual) + offset;
    view->stride[2 + axis] *= step;
  };
  if (r.x_size > 0) every(x, r.x_first, r.x_step);
  if (r.y_size > 0) every(y, r.y_first, r.y_step);
  p.input[axis] = r.x_size, p.output[axis] = r.y_size, p.pad[axis] = r.pad;
  p.stride[axis] /= std::gcd(p.stride[axis], p.dilation[axis]), p.dilation[axis] = 1;
}

// `call` itself, or where that copies less, the undilated convolutions that it consists of. The first has the most
// partial sums, so that what is prepared for it is enough for all. Rows stay whole: neighbouring columns fill a vector.
inline std::vector<Call> parts_of(const Call& call, const Kernels& kernels) {
  const Problem& p = call.problem;
  const int64_t depths = residues_of(p, 0), heights = residues_of(p, 1);
  if (depths * heights == 1) return {call};
  const auto part = [&](int64_t depth, int64_t height) {
    Call found = call;
    if (splits(p, 0)) restrict_to(found, 0, depth);
    if (splits(p, 1)) restrict_to(found, 1, height);
    return found;
  };
  if (2 * depths * heights * kernels.work(part(0, 0)).packed >= kernels.work(call).packed) return {call};
  std::vector<Call> parts;
  for (int64_t depth = 0; depth < depths; ++depth)
    for (int64_t height = 0; height < heights; ++height) parts.push_back(part(depth, height));
  const auto prepares_less = [&](const Call& a, const Call& b) {
    return kernels.work(a).prepared_bytes < kernels.work(b).prepared_bytes;
  };
  std::iter_swap(parts.begin(), std::max_element(parts.begin(), parts.end(), prepares_less));
  return parts;
}

}  // namespace cpu
}  // namespace convext
