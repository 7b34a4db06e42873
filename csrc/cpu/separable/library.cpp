// Where separable convolutions meet torch: an operator, and one that lays out the pointwise weight for it.
#include <torch/csrc/stable/library.h>

#include "cpu/separable/separable.h"
#include "cpu/shared/arguments.h"

namespace convext {
namespace cpu {
namespace {

using Optional = std::optional<Tensor>;

// The kernels for `isa`. Whether the machine has it, convext_cpu::supports tells.
const SeparableKernels& kernels_for(const std::string& isa) {
#ifdef CONVEXT_X86
  if (isa == "avx512") return separable_avx512;
  if (isa == "avx2") return separable_avx2;
#endif
  check(isa == "generic", "an instruction set of this library, but got ", isa);
  return separable_generic;
}

void check_channels(const char* name, int64_t channels, int64_t lanes) {
  check(channels >= lanes, "at least a vector of ", lanes, " channels of ", name, ", but got ", channels);
}

int64_t vectors(int64_t k, int64_t lanes) {
  return (k + lanes - 1) / lanes;
}

Tensor pack_pointwise(std::string isa, Tensor v) {
  const SeparableKernels& kernels = kernels_for(isa);
  check(v.is_cpu() && v.scalar_type() == ScalarType::Float, "a pointwise weight in float32 on the CPU, but got ",
        torch::headeronly::toString(v.scalar_type()));
  check(v.dim() >= 2 && v.numel() == v.size(0) * v.size(1), "a weight of one tap, but got shape ", list(shape(v)));
  check_channels("y", v.size(0), kernels.lanes);
  check(v.size(1) == 1 || v.stride(1) == 1, "channels of x side by side, but they are ", v.stride(1), " apart");
  Tensor packed = torch::stable::new_empty(v, {vectors(v.size(0), kernels.lanes), v.size(1), kernels.lanes});
  kernels.pack(view(v), v.size(0), v.size(1), static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

// The depthwise half of a call.
Call depthwise_of(const Arguments& g, int64_t lanes, int64_t activation, double first, double second) {
  Call call{};
  call.problem = checked_problem(g);
  const Problem& p = call.problem;
  check(p.number == Number::float32, "float32, but got ", torch::headeronly::toString(g.a.scalar_type()));
  check(p.groups == p.c && p.k == p.c, "one filter for each of the ", p.c, " channels of x, but got w of shape ",
        list(shape(g.b)));
  check_channels("x", p.c, lanes);
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
  check_channels("y", k, lanes);
  const Ints expected{vectors(k, lanes), depthwise.c, lanes};
  check(packed.is_cpu() && packed.scalar_type() == ScalarType::Float && shape(packed) == expected &&
            packed.is_contiguous(),
        "a weight that pack_pointwise made for ", k, " channels of y and ", depthwise.c, " of x, of shape ",
        list(expected), ", but got ", list(shape(packed)));
  call.b.data = const_cast<void*>(packed.const_data_ptr());
  if (bias) {
    check(bias->is_cpu() && bias->scalar_type() == ScalarType::Float && shape(*bias) == Ints{k} && bias->stride(0) == 1,
          "a second bias in float32 of shape [", k, "] and stride 1, but got shape ", list(shape(*bias)));
    call.bias = bias->const_data_ptr();
  }
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
  m.def("pack_pointwise(str isa, Tensor v) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("separable", TORCH_BOX(&separable));
  m.impl("pack_pointwise", TORCH_BOX(&pack_pointwise));
}

}  // namespace cpu
}  // namespace convext
