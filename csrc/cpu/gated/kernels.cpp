// The gated block on one instruction set, compiled once for each.
#include "cpu/gated/block.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(gated_, isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

GatedWork gated_work(const GatedCall& call) {
  return {call.batch * GatedBlock::blocks(call), GatedBlock::scratch_floats(call) * int64_t(sizeof(float))};
}

void gated_run(const GatedCall& call, int64_t first, int64_t last, void* scratch) {
  GatedBlock block(call, scratch);
  for (int64_t job = first; job < last; ++job) block.run(job);
}

}  // namespace CONVEXT_ISA

extern const GatedKernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_ISA::gated_work, CONVEXT_ISA::gated_run};

}  // namespace cpu
}  // namespace convext
