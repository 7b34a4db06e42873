// The kernels by what they leave open, a source each, which compile side by side: images of fprop and dgrad, or
// weights.
#pragma once
#include "cpu/faces/kernels.h"
#include "cpu/shared/number.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

namespace images {
Work work(const Call& call);
void prepare(const Call& call, int64_t first_group, int64_t last_group);
void run(const Call& call, int64_t first_job, int64_t last_job, void* scratch);

// Of these, where windows are packed.
Work packed_work(const Call& call);
void packed_prepare(const Call& call, int64_t first_group, int64_t last_group);
void packed_run(const Call& call, int64_t first_job, int64_t last_job, void* scratch);
}  // namespace images

namespace weights {
Work work(const Call& call);
void run(const Call& call, int64_t first_job, int64_t last_job, void* scratch);
void finish(const Call& call, int64_t first_channel, int64_t last_channel);
}  // namespace weights

template <class T>
struct Element {
  using type = T;
};

// Calls `action` with the Element of a call's tensors.
template <class Action>
CONVEXT_INLINE auto for_element(const Call& call, const Action& action) {
  switch (call.problem.number) {
    case Number::float32:
      return action(Element<float>{});
    case Number::float64:
      return action(Element<double>{});
    case Number::float16:
      return action(Element<float16>{});
    case Number::bfloat16:
      break;
  }
  return action(Element<bfloat16>{});
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
