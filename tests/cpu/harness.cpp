// Calls the kernels of one instruction set without torch: the tests compile it with sanitizers, and for vectors wider
// than the machine's. Scratch is exactly as large as the kernels say, so that an overrun is one of the allocation.
#include <cstdlib>
#include <initializer_list>

#include "cpu/faces/atrous.h"
#include "cpu/faces/rows.h"

using namespace convext::cpu;

namespace convext {
namespace cpu {
extern const Kernels kernels_tested;
}
}  // namespace convext

// numbers: face, number, n, c, k, groups, then input, kernel, output, stride, pad and dilation of three axes, an
// activation without scalars, then the five strides of a, b and the result. Jobs are run one at a time, each with
// scratch of its own, the last one first. Returns in how many parts it was computed.
extern "C" int64_t convext_run(const int64_t* numbers, void* a, void* b, void* result, const void* bias,
                               const void* residual) {
  Call call{};
  Problem& p = call.problem;
  p.face = static_cast<Face>(*numbers++), p.number = static_cast<Number>(*numbers++);
  for (int64_t* to : {&p.n, &p.c, &p.k, &p.groups}) *to = *numbers++;
  for (int64_t* to : {p.input, p.kernel, p.output, p.stride, p.pad, p.dilation})
    for (int axis = 0; axis < AXES; ++axis) to[axis] = *numbers++;
  call.epilogue.activation = static_cast<Activation>(*numbers++);
  for (View* view : {&call.a, &call.b, &call.result})
    for (int64_t& stride : view->stride) stride = *numbers++;
  call.a.data = a, call.b.data = b, call.result.data = result, call.bias = bias;
  call.residual = residual;
  call.may_be_rows = may_be_rows(call);

  const Kernels& kernels = kernels_tested;
  std::vector<Call> parts = parts_of(call, kernels);
  const auto allocate = [](int64_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes)) abort();
    __builtin_memset(memory, 0xff, bytes);  // NaN
    return memory;
  };
  void* const prepared = allocate(kernels.work(parts[0]).prepared_bytes);
  for (Call& part : parts) {
    part.prepared = prepared;
    part.continues = &part != &parts[0];
    if (p.face != Face::wgrad && !part.continues) kernels.prepare(part, 0, p.groups);
    const Work work = kernels.work(part);
    for (int64_t job = work.jobs - 1; job >= 0; --job) {
      void* scratch = allocate(work.scratch_bytes);
      kernels.run(part, job, job + 1, scratch);
      free(scratch);
    }
  }
  if (p.face == Face::wgrad) kernels.finish(parts[0], 0, p.k);
  free(prepared);
  return static_cast<int64_t>(parts.size());
}
