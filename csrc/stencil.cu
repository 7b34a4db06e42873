// The depthwise operator, any of its faces: checks its arguments, allocates the result, launches on the current stream.
#include <algorithm>

#include "arguments.h"
#include "stencil_launch.h"

namespace convext {

// Enough blocks to fill a GPU, each with a strip or more of every channel.
int stencil_wgrad_splits(const Problem& p) {
  constexpr int64_t BLOCKS = 1024, LEAST_OUTPUTS = 4096;  // blocks in all; outputs of a channel that are worth a block
  const int64_t outputs = int64_t(p.n) * p.output[0] * p.output[1] * p.output[2];
  const int64_t most = std::max<int64_t>(1, outputs / LEAST_OUTPUTS);
  return static_cast<int>(std::min(most, std::max<int64_t>(1, BLOCKS / p.c)));
}

Tensor stencil_op(std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Ints size, Ints stride, Ints pad,
                  Ints dilation, int64_t groups, bool channels_last) {
  const Arguments arguments{"stencil", face, a, b, bias, size, stride, pad, dilation, groups, channels_last};
  const Problem p = checked_problem(arguments);
  check(p.groups == p.c, "stencil: expected groups to be the channels of x, ", p.c, ", but got ", p.groups);
  Tensor result = empty_result(p, arguments);
  if (result.numel() == 0) return result;
  check(a.numel() > 0 && b.numel() > 0, "stencil: expected operands with elements");

  const DeviceStream device(a);
  for_dtype(a, [&](auto element) {
    using T = decltype(element);
    if (p.face == Face::wgrad) {
      const Tensor partial = torch::stable::new_empty(a, {stencil_wgrad_splits(p), p.k, taps(p)}, ScalarType::Float);
      stencil_wgrad<T>(p, view(a), view(b), static_cast<float*>(partial.mutable_data_ptr()), view(result),
                       device.stream);
    } else {
      stencil<T>(p, view(a), view(b), bias_data(arguments), view(result), device.stream);
    }
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(CONVEXT_NAMESPACE, CONVEXT_DISPATCH_KEY, m) {
  m.impl("stencil", TORCH_BOX(&stencil_op));
}

}  // namespace convext
