// What the operators of single faces are given: checked, as a Problem, and their tensors as Views.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <optional>

#include "cpu/shared/host.h"

namespace convext {
namespace cpu {

struct Arguments {
  const std::string face;
  const Tensor &a, &b;
  const std::optional<Tensor>&bias, &residual;
  const Ints &size, &stride, &pad, &dilation;
  int64_t groups;
  bool channels_last;
};

inline void check_tensor(const Arguments& g, const char* name, const Tensor& t, size_t dim) {
  check(t.is_cpu(), name, " on the CPU, but it is on another device");
  check(t.scalar_type() == g.a.scalar_type(), name, " to be ", torch::headeronly::toString(g.a.scalar_type()),
        ", as a is, but got ", torch::headeronly::toString(t.scalar_type()));
  check(t.dim() == static_cast<int64_t>(dim), name, " to have ", dim, " dimensions, but got shape ", list(shape(t)));
}

inline void check_list(const char* name, const Ints& values, size_t length, int64_t least) {
  check(values.size() == length, name, " to be a list of ", length, " values, but got ", list(values));
  for (int64_t value : values)
    check(value >= least && value < (int64_t(1) << 40), "values of ", name, " of at least ", least, ", but got ",
          list(values));
}

inline void check_bias(const Arguments& g, int64_t channels) {
  check_tensor(g, "bias", *g.bias, 1);
  check(g.bias->size(0) == channels && (channels < 2 || g.bias->stride(0) == 1), "bias of shape [", channels,
        "] and stride 1, but got shape ", list(shape(*g.bias)), " and stride ", g.bias->stride(0));
}

inline Problem checked_problem(const Arguments& g) {
  const size_t rank = g.size.size();
  check(rank >= 1 && rank <= AXES, "size to be a list of 1 to 3 values, but got ", list(g.size));
  check(g.face == "fprop" || g.face == "dgrad" || g.face == "wgrad", "face to be fprop, dgrad or wgrad, but got ",
        g.face);
  check_tensor(g, "a", g.a, rank + 2);
  check_tensor(g, "b", g.b, rank + 2);
  check_list("size", g.size, rank, 0);
  check_list("stride", g.stride, rank, 1);
  check_list("pad", g.pad, rank, 0);
  check_list("dilation", g.dilation, rank, 1);
  Problem p{};
  p.face = g.face == "fprop" ? Face::fprop : g.face == "dgrad" ? Face::dgrad : Face::wgrad;
  p.number = number_of(g.a);
  const Ints a = shape(g.a), b = shape(g.b);
  const bool weights = p.face == Face::wgrad;
  p.n = a[0], p.groups = g.groups;
  p.c = weights ? a[1] : b[1] * g.groups, p.k = weights ? b[1] : b[0];
  check(g.groups >= 1 && p.c % g.groups == 0 && p.k % g.groups == 0 &&
            (weights ? a[0] == b[0] : a[1] == (p.face == Face::fprop ? p.c : p.k)),
        "channels of a ", g.face, " with groups=", g.groups, ", but got a of shape ", list(a), " and b of shape ",
        list(b));
  for (int axis = 0; axis < AXES; ++axis) {
    const int from = axis - (AXES - static_cast<int>(rank));  // negative: absent
    const auto of = [&](const Ints& values, int64_t absent) { return from < 0 ? absent : values[from]; };
    p.stride[axis] = of(g.stride, 1), p.pad[axis] = of(g.pad, 0), p.dilation[axis] = of(g.dilation, 1);
    const int64_t result = of(g.size, 1), first = from < 0 ? 1 : a[2 + from], second = from < 0 ? 1 : b[2 + from];
    p.input[axis] = p.face == Face::dgrad ? result : first;
    p.kernel[axis] = weights ? result : second;
    p.output[axis] = p.face == Face::fprop ? result : p.face == Face::dgrad ? first : second;
  }
  if (g.bias) {
    check(!weights, "no bias for wgrad");
    check_bias(g, p.face == Face::fprop ? p.k : p.c);
  }
  return p;
}

// --------------------------------------------------------------------------------------------------------- tensors

// Uninitialised, dense, in the memory format asked for.
inline Tensor empty_result(const Problem& p, const Arguments& g) {
  Ints sizes(2);
  sizes[0] = p.face == Face::wgrad ? p.k : p.n;
  sizes[1] = p.face == Face::fprop ? p.k : p.face == Face::dgrad ? p.c : p.c / p.groups;
  sizes.insert(sizes.end(), g.size.begin(), g.size.end());
  const int64_t dim = static_cast<int64_t>(sizes.size());
  Ints order;  // axes from the innermost out
  if (g.channels_last) order.push_back(1);
  for (int64_t axis = dim - 1; axis >= 2; --axis) order.push_back(axis);
  if (!g.channels_last) order.push_back(1);
  order.push_back(0);
  Ints strides(dim);
  int64_t extent = 1;
  for (int64_t axis : order) {
    strides[axis] = extent;
    extent *= sizes[axis] > 0 ? sizes[axis] : 1;
  }
  int32_t dtype, device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(g.a.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(g.a.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes.data(), strides.data(), dtype, device_type, g.a.get_device_index(), &handle));
  return Tensor(handle);
}

inline Epilogue epilogue_of(const Problem& p, int64_t activation, double first, double second) {
  check(activation >= 0 && activation < ACTIVATIONS, "an activation between 0 and ", ACTIVATIONS - 1, ", but got ",
        activation);
  check(p.face != Face::wgrad || activation == 0, "no activation for wgrad");
  return {Activation(activation), {first, second}};
}

inline const void* checked_residual(const Arguments& g, const Tensor& result) {
  const Tensor& t = *g.residual;
  check(g.face != "wgrad", "no residual for wgrad");
  check_tensor(g, "residual", t, static_cast<size_t>(result.dim()));
  for (int64_t axis = 0; axis < result.dim(); ++axis)
    check(t.size(axis) == result.size(axis) && (t.size(axis) < 2 || t.stride(axis) == result.stride(axis)),
          "a residual that lies as the result does, of shape ", list(shape(result)), ", but got shape ", list(shape(t)),
          " and stride ", t.stride(axis), " along axis ", axis);
  return t.const_data_ptr();
}

// Strides of absent axes, and of axes of size 1, which are never stepped along, are 0.
inline View view(const Tensor& t) {
  View result{const_cast<void*>(t.const_data_ptr()), {}};
  const auto stride = [&t](int64_t axis) { return t.size(axis) > 1 ? t.stride(axis) : 0; };
  result.stride[0] = stride(0), result.stride[1] = stride(1);
  for (int64_t axis = 2; axis < t.dim(); ++axis) result.stride[AXES + axis - (t.dim() - 2)] = stride(axis);
  return result;
}

}  // namespace cpu
}  // namespace convext
