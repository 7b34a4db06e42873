// The depthwise operators: any one face, and dgrad with wgrad.
#include <algorithm>

#include "library/call.h"
#include "stencil/launch.h"

namespace convext {

namespace {

Problem checked_depthwise(const Arguments& arguments) {
  const Problem p = checked_problem(arguments);
  check(p.groups == p.c, arguments.op, ": expected groups to be the channels of x, ", p.c, ", but got ", p.groups);
  return p;
}

// Room for the partial sums of w, which live as long as this.
struct Partials {
  const Problem& problem;
  Scratch scratch;

  float* operator()(int splits) { return scratch(int64_t(splits) * problem.k * taps(problem)); }
};

}  // namespace

// A call's addresses: a, b, bias, residual, result.
int64_t stencil_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, std::optional<Tensor> residual,
                   Tensor result, Ints stride, Ints pad, Ints dilation, int64_t groups, std::string activation,
                   double first_scalar, double second_scalar) {
  const Arguments arguments{"stencil", face, a, b, bias, residual, result, stride, pad, dilation, groups};
  const Problem p = checked_depthwise(arguments);
  const Ending ending = checked_ending(arguments, activation, first_scalar, second_scalar);
  const View first = view(a), second = view(b), open = view(result);
  check(!residual || std::equal(open.stride, open.stride + 2 + AXES, ending.residual.stride),
        "stencil: expected a residual with the strides of the result");
  const Scratch scratch(a);
  Call call;
  for_dtype(a, [&](auto element) {
    using T = decltype(element);
    call = [=](void* const* to, Stream stream) {
      Partials partials{p, scratch};
      if (p.face == Face::wgrad)
        stencil_wgrad<T>(p, at(first, to[0]), at(second, to[1]), std::ref(partials), at(open, to[4]), stream);
      else
        stencil<T>(p, at(first, to[0]), at(second, to[1]), to[2], at(ending, to[3]), at(open, to[4]), stream);
    };
  });
  return keep(std::move(call));
}

// `a` and `b` are dgrad's operands; `x` is the other one of wgrad. A call's addresses: a, b, x, dx, dw.
int64_t stencil_backward_op(Tensor a, Tensor b, Tensor x, Tensor dx, Tensor dw, Ints stride, Ints pad, Ints dilation,
                            int64_t groups) {
  const std::string face = "dgrad";
  const std::optional<Tensor> none;
  const Arguments arguments{"stencil_backward", face, a, b, none, none, dx, stride, pad, dilation, groups};
  const Problem p = checked_depthwise(arguments);
  check_like(arguments, "x", x, dx);
  check_like(arguments, "dw", dw, b);
  const View y = view(a), w = view(b), input = view(x), by_x = view(dx), by_w = view(dw);
  const Scratch scratch(a);
  Call call;
  for_dtype(a, [&](auto element) {
    call = [=](void* const* to, Stream stream) {
      Partials partials{p, scratch};
      const bool done =
          stencil_backward<decltype(element)>(p, at(y, to[0]), at(w, to[1]), at(input, to[2]), std::ref(partials),
                                              at(by_x, to[3]), at(by_w, to[4]), stream);
      check(done, "stencil_backward: expected taps, stride and dilation that have a kernel of their own");
    };
  });
  return keep(std::move(call));
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("stencil", TORCH_BOX(&stencil_op));
  m.impl("stencil_backward", TORCH_BOX(&stencil_backward_op));
}

}  // namespace convext
