// Where pointwise convolutions meet torch: an operator, and one that lays out the weight for it.
#include <torch/csrc/stable/library.h>

#include "cpu/pointwise/arguments.h"
#include "cpu/pointwise/pointwise.h"

namespace convext {
namespace cpu {
namespace {

// The kernels for `isa`. Whether the machine has it, convext_cpu::supports tells.
const PointwiseKernels& kernels_for(const std::string& isa) {
#ifdef CONVEXT_X86
  if (isa == "avx512") return pointwise_avx512;
  if (isa == "avx2") return pointwise_avx2;
#endif
  check(isa == "generic", "an instruction set of this library, but got ", isa);
  return pointwise_generic;
}

Tensor pack_pointwise(std::string isa, Tensor v) {
  const PointwiseKernels& kernels = kernels_for(isa);
  check(v.is_cpu() && v.scalar_type() == ScalarType::Float, "a pointwise weight in float32 on the CPU, but got ",
        torch::headeronly::toString(v.scalar_type()));
  check(v.dim() >= 2 && v.numel() == v.size(0) * v.size(1), "a weight of one tap, but got shape ", list(shape(v)));
  check(v.numel() > 0, "a weight with elements, but got shape ", list(shape(v)));
  check(v.size(1) == 1 || v.stride(1) == 1, "channels of x side by side, but they are ", v.stride(1), " apart");
  Tensor packed = torch::stable::new_empty(v, packed_shape(v.size(0), v.size(1), kernels.lanes));
  kernels.pack(view(v), v.size(0), v.size(1), static_cast<float*>(packed.mutable_data_ptr()));
  return packed;
}

// Of x in float32 with its channels innermost, and a result of `k` channels.
Problem problem_of(const Tensor& x, int64_t k, const Ints& stride) {
  const int64_t rank = x.dim() - 2;
  check(x.is_cpu() && x.scalar_type() == ScalarType::Float, "x in float32 on the CPU, but got ",
        torch::headeronly::toString(x.scalar_type()));
  check(rank >= 1 && rank <= AXES, "x of 3 to 5 dimensions, but got shape ", list(shape(x)));
  check(x.size(1) < 2 || x.numel() == 0 || x.stride(1) == 1, "channels of x side by side, but they are ", x.stride(1),
        " apart");
  check_list("stride", stride, static_cast<size_t>(rank), 1);
  Problem p{};
  p.face = Face::fprop, p.number = Number::float32;
  p.n = x.size(0), p.c = x.size(1), p.k = k, p.groups = 1;
  for (int axis = 0; axis < AXES; ++axis) {
    const int64_t from = axis - (AXES - rank);  // negative: absent
    p.kernel[axis] = p.dilation[axis] = 1;
    p.input[axis] = from < 0 ? 1 : x.size(2 + from), p.stride[axis] = from < 0 ? 1 : stride[from];
    p.output[axis] = p.input[axis] > 0 ? (p.input[axis] - 1) / p.stride[axis] + 1 : 0;
  }
  return p;
}

Tensor pointwise(std::string isa, Tensor x, Tensor packed, Optional bias, int64_t k, Ints stride, Optional residual,
                 int64_t activation, double first_scalar, double second_scalar) {
  const PointwiseKernels& kernels = kernels_for(isa);
  PointwiseCall call{};
  Call& product = call.product;
  product.problem = problem_of(x, k, stride);
  const Problem& p = product.problem;
  give_packed(product, packed, bias, "bias", kernels.lanes);
  product.epilogue = epilogue_of(p, activation, first_scalar, second_scalar);
  const Ints size(p.output + AXES - (x.dim() - 2), p.output + AXES);
  const Arguments arguments{"fprop", x, packed, bias, residual, size, stride, stride, stride, 1, true};
  Tensor result = empty_result(p, arguments);
  call.residual = residual ? checked_residual(arguments, result) : nullptr;
  if (result.numel() == 0) return result;
  check(x.numel() > 0, "an x with elements");
  product.a = view(x), product.result = view(result);
  product.result.stride[4] = k;  // from pixel to pixel, also where rows have but one

  const int64_t jobs = kernels.jobs(call), products = p.n * p.output[0] * p.output[1] * p.output[2] * p.c * k;
  torch::stable::parallel_for(0, jobs, grain(jobs, products / 8),
                              [&](int64_t first, int64_t last) { kernels.run(call, first, last); });
  return result;
}

}  // namespace

// x [N, C, *I] with its channels innermost; `residual`, which is added before the activation, as the result lies, which
// is channels last. The activation is a number of Activation and two scalars.
STABLE_TORCH_LIBRARY_FRAGMENT(convext_cpu, m) {
  m.def("pack_pointwise(str isa, Tensor v) -> Tensor");
  m.def(
      "pointwise(str isa, Tensor x, Tensor packed, Tensor? bias, int k, int[] stride, Tensor? residual, "
      "int activation, float first_scalar, float second_scalar) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("pack_pointwise", TORCH_BOX(&pack_pointwise));
  m.impl("pointwise", TORCH_BOX(&pointwise));
}

}  // namespace cpu
}  // namespace convext
