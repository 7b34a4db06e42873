// Where separable convolutions meet torch: an operator.
#include <torch/csrc/stable/library.h>

#include "cpu/pointwise/arguments.h"
#include "cpu/separable/separable.h"

namespace convext {
namespace cpu {
namespace {

// The kernels for `isa`. Whether the machine has it, convext_cpu::supports tells.
const SeparableKernels& kernels_for(const std::string& isa) {
#ifdef CONVEXT_X86
  if (isa == "avx512") return separable_avx512;
  if (isa == "avx2") return separable_avx2;
#endif
  check(isa == "generic", "an instruction set of this library, but got ", isa);
  return separable_generic;
}

// The depthwise half of a call.
Call depthwise_of(const Arguments& g, int64_t lanes, int64_t activation, double first, double second) {
  Call call{};
  call.problem = checked_problem(g);
  const Problem& p = call.problem;
  check(p.number == Number::float32, "float32, but got ", torch::headeronly::toString(g.a.scalar_type()));
  check(p.groups == p.c && p.k == p.c, "one filter for each of the ", p.c, " channels of x, but got w of shape ",
        list(shape(g.b)));
  check(p.c >= lanes, "at least a vector of ", lanes, " channels of x, but got ", p.c);
  check(g.a.stride(1) == 1, "channels of x side by side, but they are ", g.a.stride(1), " apart");
  call.a = view(g.a), call.b = view(g.b);
  call.bias = g.bias ? g.bias->const_data_ptr() : nullptr;
  call.epilogue = epilogue_of(p, activation, first, second);
  return call;
}

// The other half, for a result of `k` channels.
Call pointwise_of(const Problem& depthwise, const Tensor& packed, const Optional& bias, int64_t k, int64_t lanes,
                  int64_t activation, double first, double second) {
  Call call{};
  call.problem = depthwise;
  call.problem.k = k;
  give_packed(call, packed, bias, "second bias", lanes);
  call.epilogue = epilogue_of(depthwise, activation, first, second);
  return call;
}

Tensor separable(std::string isa, Tensor x, Tensor w, Optional bias, Tensor packed, Optional second_bias, int64_t k,
                 Optional residual, Ints size, Ints stride, Ints pad, Ints dilation, int64_t first, double first_scalar,
                 double its_second, int64_t second, double second_scalar, double seconds_second) {
  const SeparableKernels& kernels = kernels_for(isa);
  check(x.dim() >= 3, "x of at least 3 dimensions, but got shape ", list(shape(x)));
  const Arguments g{"fprop", x, w, bias, residual, size, stride, pad, dilation, x.size(1), true};
  SeparableCall call{};
  call.depthwise = depthwise_of(g, kernels.lanes, first, first_scalar, its_second);
  const Problem& p = call.depthwise.problem;
  Call& pointwise = call.pointwise;
  pointwise = pointwise_of(p, packed, second_bias, k, kernels.lanes, second, second_scalar, seconds_second);
  Tensor result = empty_result(pointwise.problem, g);
  if (result.numel() == 0) return result;
  check(x.numel() > 0 && w.numel() > 0, "operands with elements");
  pointwise.result = view(result);
  pointwise.result.stride[4] = k;  // from pixel to pixel, also where rows have but one
  pointwise.residual = residual ? checked_residual(g, result) : nullptr;

  const Work work = kernels.work(call);
  const Memory prepared = allocate(work.prepared_bytes);
  call.depthwise.prepared = prepared.get();
  kernels.prepare(call, 0, p.c);
  const int64_t taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int64_t products = p.n * p.output[0] * p.output[1] * p.output[2] * p.c * (taps + k);
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, products / 8), [&](int64_t begin, int64_t end) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.run(call, begin, end, scratch.get());
  });
  return result;
}

}  // namespace

// x [N, C, *I] with its channels innermost; w [C, 1, *k] of any strides; residual as the result lies, which is channels
// last. An activation is a number of Activation and two scalars: the first is that of the depthwise convolution.
STABLE_TORCH_LIBRARY_FRAGMENT(convext_cpu, m) {
  m.def(
      "separable(str isa, Tensor x, Tensor w, Tensor? bias, Tensor packed, Tensor? second_bias, int k, "
      "Tensor? residual, int[] size, int[] stride, int[] pad, int[] dilation, int first, float first_scalar, "
      "float its_second, int second, float second_scalar, float seconds_second) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("separable", TORCH_BOX(&separable));
}

}  // namespace cpu
}  // namespace convext
