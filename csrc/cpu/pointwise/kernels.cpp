// The table of one instruction set for pointwise convolutions, compiled as faces/kernels.cpp is.
#include "cpu/pointwise/job.h"
#include "cpu/pointwise/multiply.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(pointwise_, isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

void multiply(const Call& call, const float* t, int64_t pitch, float* to, int64_t count) {
  Product(call, pitch, nullptr).run(t, to, count, 0, Product::columns(call.problem.k));
}

}  // namespace CONVEXT_ISA

extern const PointwiseKernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_ISA::Product::lanes, CONVEXT_ISA::Product::pack,
                                                         CONVEXT_ISA::pointwise_jobs, CONVEXT_ISA::pointwise_run};

}  // namespace cpu
}  // namespace convext
