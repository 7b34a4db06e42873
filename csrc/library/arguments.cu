#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>

#include "library/arguments.h"

namespace convext {

namespace {

Ints shape(const Tensor& t) {
  Ints sizes;
  for (int64_t axis = 0; axis < t.dim(); ++axis) sizes.push_back(t.size(axis));
  return sizes;
}

std::string list(const Ints& values) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < values.size(); ++i) text << (i ? ", " : "") << values[i];
  text << "]";
  return text.str();
}

void check_tensor(const Arguments& g, const char* name, const Tensor& t, int64_t dim) {
  check(on_device(t), g.op, ": expected ", name, " on ", DEVICE, ", but it is on another device");
  check(t.get_device() == g.a.get_device(), g.op, ": expected ", name, " on device ", int(g.a.get_device()),
        ", as a is, but got device ", int(t.get_device()));
  const ScalarType dtype = t.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16, g.op, ": expected ",
        name, " to be float32, float16 or bfloat16, but got ", torch::headeronly::toString(dtype));
  check(dtype == g.a.scalar_type(), g.op, ": expected ", name, " to be ",
        torch::headeronly::toString(g.a.scalar_type()), ", as a is, but got ", torch::headeronly::toString(dtype));
  check(t.dim() == dim, g.op, ": expected ", name, " to have ", dim, " dimensions, but got shape ", list(shape(t)));
  for (int64_t size : shape(t))
    check(size > 0 && size < (int64_t(1) << 31), g.op, ": expected each size of ", name,
          " from 1 to 2147483647, but got shape ", list(shape(t)));
}

void check_list(const Arguments& g, const char* name, const Ints& values, size_t length, int64_t least) {
  check(values.size() == length, g.op, ": expected ", name, " to be a list of ", length, " values, but got ",
        list(values));
  for (int64_t value : values)
    check(value >= least && value < (int64_t(1) << 31), g.op, ": expected values of ", name, " of at least ", least,
          ", but got ", list(values));
}

Face face_of(const Arguments& g) {
  if (g.face == "fprop") return Face::fprop;
  if (g.face == "dgrad") return Face::dgrad;
  check(g.face == "wgrad", g.op, ": expected face to be fprop, dgrad or wgrad, but got ", g.face);
  return Face::wgrad;
}

// Channels of the operands fit together; fills in n, c and k.
void set_channels(const Arguments& g, Problem& p) {
  const Ints a = shape(g.a), b = shape(g.b);
  const auto fits = [&](bool condition) {
    check(condition, g.op, ": expected channels of a ", g.face, " with groups=", g.groups, ", but got a of shape ",
          list(a), " and b of shape ", list(b));
  };
  check(g.groups >= 1, g.op, ": expected groups of at least 1, but got ", g.groups);
  p.groups = static_cast<int>(g.groups), p.n = static_cast<int>(a[0]);
  if (p.face == Face::wgrad) {
    fits(a[0] == b[0] && a[1] % g.groups == 0 && b[1] % g.groups == 0);
    p.c = static_cast<int>(a[1]), p.k = static_cast<int>(b[1]);
  } else {
    fits(b[0] % g.groups == 0 && a[1] == (p.face == Face::fprop ? b[1] * g.groups : b[0]));
    p.c = static_cast<int>(b[1] * g.groups), p.k = static_cast<int>(b[0]);
  }
}

void check_bias(const Arguments& g, const Problem& p) {
  if (!g.bias) return;
  check(p.face != Face::wgrad, g.op, ": expected no bias for wgrad");
  check_tensor(g, "bias", *g.bias, 1);
  const int channels = p.face == Face::fprop ? p.k : p.c;
  check(g.bias->size(0) == channels && (channels < 2 || g.bias->stride(0) == 1), g.op, ": expected bias of shape [",
        channels, "] and stride 1, but got shape ", list(shape(*g.bias)), " and stride ", g.bias->stride(0));
}

void check_shape(const Arguments& g, const char* name, const Tensor& t, const Ints& expected) {
  check_tensor(g, name, t, static_cast<int64_t>(expected.size()));
  check(shape(t) == expected, g.op, ": expected ", name, " of shape ", list(expected), ", but got shape ",
        list(shape(t)));
}

void check_result(const Arguments& g, const Problem& p) {
  const int64_t leading[3][2] = {{p.n, p.k}, {p.n, p.c}, {p.k, p.c / p.groups}};  // of y, x and w
  Ints expected = shape(g.result);
  std::copy_n(leading[static_cast<int>(p.face)], 2, expected.begin());
  check_shape(g, "result", g.result, expected);
}

}  // namespace

Problem checked_problem(const Arguments& g) {
  const int rank = static_cast<int>(g.result.dim()) - 2;
  check(rank >= 1 && rank <= AXES, g.op, ": expected result to have 3 to 5 dimensions, but got shape ",
        list(shape(g.result)));
  check_tensor(g, "a", g.a, rank + 2);
  check_tensor(g, "b", g.b, rank + 2);
  check_list(g, "stride", g.stride, rank, 1);
  check_list(g, "pad", g.pad, rank, 0);
  check_list(g, "dilation", g.dilation, rank, 1);

  Problem p{};
  p.face = face_of(g);
  set_channels(g, p);
  check_bias(g, p);
  check_result(g, p);
  for (int axis = 0; axis < AXES; ++axis) {
    const int from = axis - (AXES - rank);  // negative: absent
    p.stride[axis] = static_cast<int>(from < 0 ? g.stride.back() : g.stride[from]);
    p.dilation[axis] = static_cast<int>(from < 0 ? g.dilation.back() : g.dilation[from]);
    p.pad[axis] = from < 0 ? 0 : static_cast<int>(g.pad[from]);
    const auto size_of = [&](const Tensor& t) { return from < 0 ? 1 : static_cast<int>(t.size(2 + from)); };
    const int result = from < 0 ? 1 : static_cast<int>(g.result.size(2 + from));
    p.input[axis] = p.face == Face::dgrad ? result : size_of(g.a);
    p.kernel[axis] = p.face == Face::wgrad ? result : size_of(g.b);
    p.output[axis] = p.face == Face::fprop ? result : size_of(p.face == Face::dgrad ? g.a : g.b);
    const int64_t last = (int64_t(p.output[axis]) + 1) * p.stride[axis] + int64_t(p.kernel[axis]) * p.dilation[axis] +
                         p.input[axis] + p.pad[axis];
    check(last < (int64_t(1) << 31), g.op, ": expected indices below 2147483648, but size, stride, pad and dilation ",
          result, ", ", list(g.stride), ", ", list(g.pad), ", ", list(g.dilation), " give ", last);
  }
  return p;
}

void check_like(const Arguments& g, const char* name, const Tensor& t, const Tensor& like) {
  check_shape(g, name, t, shape(like));
}

Ending checked_ending(const Arguments& g, const std::string& activation, double first, double second) {
  Ending ending{g.residual || activation != "identity", epilogue_of(activation, float(first), float(second)), View{}};
  check(!ending.any || g.face != "wgrad", g.op, ": expected neither activation nor residual for wgrad");
  if (!g.residual) return ending;
  check_like(g, "residual", *g.residual, g.result);
  ending.residual = view(*g.residual);
  return ending;
}

View view(const Tensor& t) {
  View result{const_cast<void*>(t.const_data_ptr()), {}};
  const auto stride = [&t](int64_t axis) { return t.size(axis) > 1 ? t.stride(axis) : 0; };
  result.stride[0] = stride(0), result.stride[1] = stride(1);
  for (int64_t axis = 2; axis < t.dim(); ++axis) result.stride[AXES + axis - (t.dim() - 2)] = stride(axis);
  return result;
}

}  // namespace convext
