// Where the CPU kernels meet torch: one operator, through libtorch's stable ABI, so that one binary serves every torch
// from 2.10 on. It checks its arguments, allocates the result and shares the jobs among torch's threads.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "cpu/faces/atrous.h"
#include "cpu/faces/kernels.h"
#include "cpu/shared/arguments.h"

namespace convext {
namespace cpu {
namespace {

// ------------------------------------------------------------------------------------------------ instruction sets

// The kernels for `isa`, or null where this machine or this library does not have it.
const Kernels* kernels_for(const std::string& isa) {
  if (isa == "generic") return &kernels_generic;
#ifdef CONVEXT_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avx2" && avx2) return &kernels_avx2;
  if (isa == "avx512" && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return &kernels_avx512;
#endif
  return nullptr;
}

bool supports(std::string isa) {
  return kernels_for(isa) != nullptr;
}

// Who made the processor: "amd", "intel" or "other".
std::string vendor() {
#ifdef CONVEXT_X86
  if (__builtin_cpu_is("amd")) return "amd";
  if (__builtin_cpu_is("intel")) return "intel";
#endif
  return "other";
}

// -------------------------------------------------------------------------------------------------------- operator

int64_t weights_of(const Problem& p) {
  return p.k * (p.c / p.groups) * p.kernel[0] * p.kernel[1] * p.kernel[2];
}

// All of a face, or one part of it; partial sums are left.
void compute(const Kernels& kernels, const Call& call) {
  const Problem& p = call.problem;
  const int64_t weights = weights_of(p);
  if (p.face != Face::wgrad && !call.continues)
    torch::stable::parallel_for(0, p.groups, grain(p.groups, weights),
                                [&](int64_t first, int64_t last) { kernels.prepare(call, first, last); });
  const Work work = kernels.work(call);
  const int64_t products = weights * p.n * p.output[0] * p.output[1] * p.output[2];
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, products / 8), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.run(call, first, last, scratch.get());
  });
}

Tensor convolve(std::string isa, std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Ints size,
                Ints stride, Ints pad, Ints dilation, int64_t groups, bool channels_last,
                std::optional<Tensor> residual, int64_t activation, double first_scalar, double second_scalar) {
  const Kernels* kernels = kernels_for(isa);
  check(kernels != nullptr, "an instruction set of this machine and library, but got ", isa);
  const Arguments arguments{face, a, b, bias, residual, size, stride, pad, dilation, groups, channels_last};
  Call call{};
  call.problem = checked_problem(arguments);
  call.a = view(a), call.b = view(b);
  const Problem& p = call.problem;
  Tensor result = empty_result(p, arguments);
  if (result.numel() == 0) return result;
  check(a.numel() > 0 && b.numel() > 0, "operands with elements");
  call.result = view(result);
  call.bias = bias ? bias->const_data_ptr() : nullptr;
  call.epilogue = epilogue_of(p, activation, first_scalar, second_scalar);
  call.residual = residual ? checked_residual(arguments, result) : nullptr;

  std::vector<Call> parts = parts_of(call, *kernels);
  const Memory prepared = allocate(kernels->work(parts[0]).prepared_bytes);
  for (Call& part : parts) {
    part.prepared = prepared.get();
    part.continues = &part != &parts[0];
    compute(*kernels, part);
  }
  if (p.face == Face::wgrad)
    torch::stable::parallel_for(0, p.k, grain(p.k, weights_of(p)),
                                [&](int64_t first, int64_t last) { kernels->finish(parts[0], first, last); });
  return result;
}

}  // namespace

// `a`, `b`: the face's operands, (x, w), (y, w) or (x, y), of any strides. `size`: the result's spatial size. `pad`:
// the zeros before each axis. `channels_last`: the result's memory format. `residual`: as the result lies, added to
// what `activation`, a number of Activation with up to two scalars, makes of a sum.
STABLE_TORCH_LIBRARY(convext_cpu, m) {
  m.def(
      "convolve(str isa, str face, Tensor a, Tensor b, Tensor? bias, int[] size, int[] stride, int[] pad, "
      "int[] dilation, int groups, bool channels_last, Tensor? residual, int activation, float first_scalar, "
      "float second_scalar) -> Tensor");
  m.def("supports(str isa) -> bool");
  m.def("vendor() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("convolve", TORCH_BOX(&convolve));
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CompositeExplicitAutograd, m) {
  m.impl("supports", TORCH_BOX(&supports));
  m.impl("vendor", TORCH_BOX(&vendor));
}

}  // namespace cpu
}  // namespace convext
