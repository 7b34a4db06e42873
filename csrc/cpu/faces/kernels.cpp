// The table of one instruction set: CONVEXT_ISA names it, CONVEXT_VECTOR_BYTES is the width of its vectors. setup.py
// compiles this file, images.cpp, images_packed.cpp and weights.cpp once for each.
#include "cpu/faces/results.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(kernels_, isa)
#define CONVEXT_QUOTE(isa) #isa
#define CONVEXT_NAME(isa) CONVEXT_QUOTE(isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

Work work(const Call& call) {
  return (call.problem.face == Face::wgrad ? weights::work : images::work)(call);
}

void run(const Call& call, int64_t first, int64_t last, void* scratch) {
  (call.problem.face == Face::wgrad ? weights::run : images::run)(call, first, last, scratch);
}

}  // namespace CONVEXT_ISA

extern const Kernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_NAME(CONVEXT_ISA), CONVEXT_ISA::work,
                                                CONVEXT_ISA::images::prepare, CONVEXT_ISA::run,
                                                CONVEXT_ISA::weights::finish};

}  // namespace cpu
}  // namespace convext
