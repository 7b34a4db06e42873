// Where the CPU kernels meet torch: one operator, through libtorch's stable ABI, so that one binary serves every torch
// from 2.10 on. It checks its arguments, allocates the result and shares the jobs among torch's threads.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>

#include "cpu/faces/atrous.h"
#include "cpu/faces/kernels.h"
#include "cpu/shared/host.h"

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

// ------------------------------------------------------------------------------------------------------- arguments

struct Arguments {
  const std::string& face;
  const Tensor &a, &b;
  const std::optional<Tensor>&bias, &residual;
  const Ints &size, &stride, &pad, &dilation;
  int64_t groups;
  bool channels_last;
};

void check_tensor(const Arguments& g, const char* name, const Tensor& t, size_t dim) {
  check(t.is_cpu(), name, " on the CPU, but it is on another device");
  check(t.scalar_type() == g.a.scalar_type(), name, " to be ", torch::headeronly::toString(g.a.scalar_type()),
        ", as a is, but got ", torch::headeronly::toString(t.scalar_type()));
  check(t.dim() == static_cast<int64_t>(dim), name, " to have ", dim, " dimensions, but got shape ", list(shape(t)));
}

void check_list(const char* name, const Ints& values, size_t length, int64_t least) {
  check(values.size() == length, name, " to be a list of ", length, " values, but got ", list(values));
  for (int64_t value : values)
    check(value >= least && value < (int64_t(1) << 40), "values of ", name, " of at least ", least, ", but got ",
          list(values));
}

Problem checked_problem(const Arguments& g) {
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
    check_tensor(g, "bias", *g.bias, 1);
    const int64_t channels = p.face == Face::fprop ? p.k : p.c;
    check(g.bias->size(0) == channels && (channels < 2 || g.bias->stride(0) == 1), "bias of shape [", channels,
          "] and stride 1, but got shape ", list(shape(*g.bias)), " and stride ", g.bias->stride(0));
  }
  return p;
}

// --------------------------------------------------------------------------------------------------------- tensors

// Uninitialised, dense, in the memory format asked for.
Tensor empty_result(const Problem& p, const Arguments& g) {
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

Epilogue epilogue_of(const Problem& p, int64_t activation, double first, double second) {
  check(activation >= 0 && activation < ACTIVATIONS, "an activation between 0 and ", ACTIVATIONS - 1, ", but got ",
        activation);
  check(p.face != Face::wgrad || activation == 0, "no activation for wgrad");
  return {Activation(activation), {first, second}};
}

const void* checked_residual(const Arguments& g, const Tensor& result) {
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
View view(const Tensor& t) {
  View result{const_cast<void*>(t.const_data_ptr()), {}};
  const auto stride = [&t](int64_t axis) { return t.size(axis) > 1 ? t.stride(axis) : 0; };
  result.stride[0] = stride(0), result.stride[1] = stride(1);
  for (int64_t axis = 2; axis < t.dim(); ++axis) result.stride[AXES + axis - (t.dim() - 2)] = stride(axis);
  return result;
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
