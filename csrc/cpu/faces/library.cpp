// Where the CPU kernels meet torch: one operator, through libtorch's stable ABI, so that one binary serves every torch
// from 2.10 on. It checks its arguments, allocates the result and shares the jobs among torch's threads.
#include <torch/csrc/stable/library.h>

#ifdef CONVEXT_X86
#include <cpuid.h>
#endif
#include <optional>
#include <string>

#include "cpu/faces/atrous.h"
#include "cpu/faces/branches.h"
#include "cpu/faces/kernels.h"
#include "cpu/faces/rows.h"
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

// As the processor's maker numbers its families: of AMD's 25 are Zen 3 and Zen 4, 26 is Zen 5. 0 for "other".
int64_t family() {
#ifdef CONVEXT_X86
  unsigned version = 0, unused = 0;
  if (__get_cpuid(1, &version, &unused, &unused, &unused)) return ((version >> 8) & 15) + ((version >> 20) & 255);
#endif
  return 0;
}

// -------------------------------------------------------------------------------------------------------- operator

int64_t weights_of(const Problem& p) {
  return p.k * (p.c / p.groups) * p.kernel[0] * p.kernel[1] * p.kernel[2];
}

void prepare(const Kernels& kernels, const Call& call) {
  const int64_t groups = call.problem.groups;
  torch::stable::parallel_for(0, groups, grain(groups, weights_of(call.problem)),
                              [&](int64_t first, int64_t last) { kernels.prepare(call, first, last); });
}

// All of a face, or one part of it; partial sums are left.
void compute(const Kernels& kernels, const Call& call) {
  const Problem& p = call.problem;
  const int64_t weights = weights_of(p);
  if (p.face != Face::wgrad && !call.continues) prepare(kernels, call);
  const Work work = kernels.work(call);
  const int64_t products = weights * p.n * p.output[0] * p.output[1] * p.output[2];
  torch::stable::parallel_for(0, work.jobs, grain(work.jobs, products / 8), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(work.scratch_bytes);
    kernels.run(call, first, last, scratch.get());
  });
}

const Kernels& checked_kernels(const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  check(kernels != nullptr, "an instruction set of this machine and library, but got ", isa);
  return *kernels;
}

Tensor convolve(std::string isa, std::string face, Tensor a, Tensor b, std::optional<Tensor> bias, Ints size,
                Ints stride, Ints pad, Ints dilation, int64_t groups, bool channels_last,
                std::optional<Tensor> residual, int64_t activation, double first_scalar, double second_scalar) {
  const Kernels& kernels = checked_kernels(isa);
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
  call.may_be_rows = may_be_rows(call);

  std::vector<Call> parts = parts_of(call, kernels);
  const Memory prepared = allocate(kernels.work(parts[0]).prepared_bytes);
  for (Call& part : parts) {
    part.prepared = prepared.get();
    part.continues = &part != &parts[0];
    compute(kernels, part);
  }
  if (p.face == Face::wgrad)
    torch::stable::parallel_for(0, p.k, grain(p.k, weights_of(p)),
                                [&](int64_t first, int64_t last) { kernels.finish(parts[0], first, last); });
  return result;
}

// What each branch is given of paddings and dilations: a value for each of `rank` axes.
void check_branches(const std::vector<Tensor>& w, const Ints& pad, const Ints& dilation, size_t rank) {
  check(!w.empty(), "a branch or more");
  for (const auto& [name, values] : {std::pair("pad", &pad), std::pair("dilation", &dilation)})
    check(values->size() == w.size() * rank, name, " to be a list of ", rank, " values for each of ", w.size(),
          " branches, but got ", list(*values));
}

Tensor branches(std::string isa, Tensor x, std::vector<Tensor> w, std::optional<Tensor> bias, Ints size, Ints stride,
                Ints pad, Ints dilation, int64_t groups, bool channels_last) {
  const Kernels& kernels = checked_kernels(isa);
  const size_t rank = size.size();
  check_branches(w, pad, dilation, rank);
  const std::string face = "fprop";
  const std::optional<Tensor> none;
  std::vector<Call> calls(w.size());
  Problem all{};  // of the concatenation
  for (size_t i = 0; i < w.size(); ++i) {
    const auto own = [&](const Ints& of) { return Ints(of.begin() + i * rank, of.begin() + (i + 1) * rank); };
    const Ints pads = own(pad), dilations = own(dilation);
    const Arguments arguments{face, x, w[i], none, none, size, stride, pads, dilations, groups, channels_last};
    calls[i].problem = checked_problem(arguments);
    const int64_t before = all.k;
    all = calls[i].problem, all.k += before;
  }
  const Arguments arguments{face, x, w[0], bias, none, size, stride, pad, dilation, groups, channels_last};
  if (bias) check_bias(arguments, all.k);
  Tensor result = empty_result(all, arguments);
  if (result.numel() == 0) return result;

  const int64_t bytes = bytes_of(all.number);
  View slice = view(result);
  const char* bias_of = bias ? static_cast<const char*>(bias->const_data_ptr()) : nullptr;
  std::vector<Branch> branches;
  int64_t products = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    Call& call = calls[i];
    check(x.numel() > 0 && w[i].numel() > 0, "operands with elements");
    call.a = view(x), call.b = view(w[i]), call.result = slice, call.bias = bias_of;
    call.may_be_rows = may_be_rows(call);
    branches.push_back(branch_of(call, kernels));
    prepare(kernels, branches.back().parts[0]);
    slice.data = static_cast<char*>(slice.data) + call.problem.k * slice.stride[1] * bytes;
    if (bias) bias_of += call.problem.k * bytes;
    products += weights_of(call.problem) * all.n * all.output[0] * all.output[1] * all.output[2];
  }
  const std::vector<Step> steps = side_by_side(branches, kernels);
  const int64_t scratch_bytes = scratch_of(branches, kernels), count = static_cast<int64_t>(steps.size());
  torch::stable::parallel_for(0, count, grain(count, products / 8), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(scratch_bytes);
    for (int64_t i = first; i < last; ++i) kernels.run(*steps[i].part, steps[i].job, steps[i].job + 1, scratch.get());
  });
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
  // `w`: one of each branch, whose `pad` and `dilation` follow one another; `bias`: of all channels of the result.
  m.def(
      "branches(str isa, Tensor x, Tensor[] w, Tensor? bias, int[] size, int[] stride, int[] pad, int[] dilation, "
      "int groups, bool channels_last) -> Tensor");
  m.def("supports(str isa) -> bool");
  m.def("vendor() -> str");
  m.def("family() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CPU, m) {
  m.impl("convolve", TORCH_BOX(&convolve));
  m.impl("branches", TORCH_BOX(&branches));
}

STABLE_TORCH_LIBRARY_IMPL(convext_cpu, CompositeExplicitAutograd, m) {
  m.impl("supports", TORCH_BOX(&supports));
  m.impl("vendor", TORCH_BOX(&vendor));
  m.impl("family", TORCH_BOX(&family));
}

}  // namespace cpu
}  // namespace convext
