// The depthwise operators: any one face, and dgrad with wgrad. They check their arguments, allocate the results, launch
// on the current stream.
#include <tuple>

#include "library/arguments.h"
#include "stencil/launch.h"

namespace convext {

namespace {

Problem checked_depthwise(const Arguments& arguments) {
  const Problem p = checked_problem(arguments);
  check(p.groups == p.c, arguments.op, ": expected groups to be the channels of x, ", p.c, ", but got ", p.groups);
  return p;
}

// The partial sums of w, which live as long as this.
struct Partials {
  const Problem& problem;
  const Tensor& like;
  std::optional<Tensor> sums = {};

  float* operator()(int splits) {
    sums = torch::stable::new_empty(like, {splits, problem.k, taps(problem)}, ScalarType::Float);
    return static_cast<float*>(sums->mutable_data_ptr());
  }
};

}  // namespace

Tensor stencil_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Ints size, Ints stride, Ints pad,
                  Ints dilation, int64_t groups, bool channels_last) {
  const Arguments arguments{"stencil", face, a, b, bias, size, stride, pad, dilation, groups, channels_last};
  const Problem p = checked_depthwise(arguments);
  Tensor result = empty_result(p, arguments);
  if (result.numel() == 0) return result;
  check(a.numel() > 0 && b.numel() > 0, "stencil: expected operands with elements");

  const DeviceStream device(a);
  Partials partials{p, a};
  for_dtype(a, [&](auto element) {
    using T = decltype(element);
    if (p.face == Face::wgrad)
      stencil_wgrad<T>(p, view(a), view(b), std::ref(partials), view(result), device.stream);
    else
      stencil<T>(p, view(a), view(b), bias_data(arguments), view(result), device.stream);
  });
  return result;
}

// `a`, `b` and `size` are dgrad's; `x` is the other operand of wgrad, whose result is contiguous.
std::tuple<Tensor, Tensor> stencil_backward_op(Tensor a, Tensor b, Tensor x, Ints size, Ints stride, Ints pad,
                                               Ints dilation, int64_t groups, bool channels_last) {
  const std::string face = "dgrad";
  const std::optional<Tensor> bias;
  const Arguments arguments{"stencil_backward", face, a, b, bias, size, stride, pad, dilation, groups, channels_last};
  const Problem p = checked_depthwise(arguments);
  check_x(arguments, p, x);
  check(a.numel() > 0 && b.numel() > 0 && x.numel() > 0, "stencil_backward: expected operands with elements");
  Tensor dx = empty_result(p, arguments), dw = torch::stable::new_empty(b, shape(b));

  const DeviceStream device(a);
  Partials partials{p, a};
  bool done = false;
  for_dtype(a, [&](auto element) {
    done = stencil_backward<decltype(element)>(p, view(a), view(b), view(x), std::ref(partials), view(dx), view(dw),
                                               device.stream);
  });
  check(done, "stencil_backward: expected taps, stride and dilation that have a kernel of their own");
  return {dx, dw};
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("stencil", TORCH_BOX(&stencil_op));
  m.impl("stencil_backward", TORCH_BOX(&stencil_backward_op));
}

}  // namespace convext
