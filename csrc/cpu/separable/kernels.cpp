// The table of one instruction set for separable convolutions, compiled as faces/kernels.cpp is.
#include "cpu/separable/job.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(separable_, isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

void separable_prepare(const SeparableCall& call, int64_t first, int64_t last) {
  innermost_prepare<float>(call.depthwise, first, last);
}

}  // namespace CONVEXT_ISA

extern const SeparableKernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_ISA::Lanes<float>::count, CONVEXT_ISA::separable_work,
                                                         CONVEXT_ISA::separable_prepare, CONVEXT_ISA::separable_run};

}  // namespace cpu
}  // namespace convext
