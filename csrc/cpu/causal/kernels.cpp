// The table of one instruction set for causal convolutions, compiled as kernels.cpp is.
#include "cpu/causal/update.h"

#define CONVEXT_JOIN(a, b) a##b
#define CONVEXT_TABLE(isa) CONVEXT_JOIN(causal_, isa)

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

template <class T>
struct CausalElement {
  using type = T;
};

// Calls `action` with the CausalElement of a problem's tensors.
template <class Action>
CONVEXT_INLINE auto for_causal_element(const CausalProblem& problem, const Action& action) {
  switch (problem.number) {
    case Number::float32:
      return action(CausalElement<float>{});
    case Number::float64:
      return action(CausalElement<double>{});
    case Number::float16:
      return action(CausalElement<float16>{});
    case Number::bfloat16:
      break;
  }
  return action(CausalElement<bfloat16>{});
}

// Calls `action` with the CausalElement and the number of taps where that is worth its own code, else with 0.
template <class Action>
CONVEXT_INLINE void for_taps(const CausalProblem& problem, const Action& action) {
  for_causal_element(problem, [&](auto element) {
    switch (problem.taps) {
      case 2:
        return action(element, Int<2>{});
      case 3:
        return action(element, Int<3>{});
      case 4:
        return action(element, Int<4>{});
      default:
        return action(element, Int<0>{});
    }
  });
}

CausalWork causal_work(const CausalCall& call, bool backward) {
  return for_causal_element(
      call.problem, [&](auto element) { return causal_work<typename decltype(element)::type>(call, backward); });
}

void causal_prepare(const CausalCall& call) {
  for_causal_element(call.problem, [&](auto element) { prepare_weights<typename decltype(element)::type>(call); });
}

void causal_forward(const CausalCall& call, int64_t first, int64_t last, void* scratch) {
  for_taps(call.problem, [&](auto element, auto taps) {
    CausalJob<typename decltype(element)::type, decltype(taps)::value> thread(call, scratch);
    for (int64_t job = first; job < last; ++job) thread.forward(job);
  });
}

void causal_backward(const CausalCall& call, int64_t first, int64_t last, void* scratch) {
  const int64_t shares = causal_work(call, true).shares;
  for_taps(call.problem, [&](auto element, auto taps) {
    CausalJob<typename decltype(element)::type, decltype(taps)::value> thread(call, scratch);
    for (int64_t job = first; job < last; ++job) thread.backward(job, shares);
  });
}

void causal_finish(const CausalCall& call, int64_t shares) {
  for_causal_element(call.problem, [&](auto element) {
    using A = typename Sum<typename decltype(element)::type>::type;
    A* sums = static_cast<A*>(call.sums);
    const int64_t count = call.problem.channels * (call.problem.taps + 1);
    for (int64_t share = 1; share < shares; ++share)
      for (int64_t i = 0; i < count; ++i) sums[i] += sums[share * count + i];
  });
}

void causal_update(const UpdateCall& call, int64_t first, int64_t last) {
  for_causal_element(call.problem,
                     [&](auto element) { CausalUpdate<typename decltype(element)::type>{call}.run(first, last); });
}

}  // namespace CONVEXT_ISA

extern const CausalKernels CONVEXT_TABLE(CONVEXT_ISA){CONVEXT_ISA::causal_work,    CONVEXT_ISA::causal_prepare,
                                                      CONVEXT_ISA::causal_forward, CONVEXT_ISA::causal_backward,
                                                      CONVEXT_ISA::causal_finish,  CONVEXT_ISA::causal_update};

}  // namespace cpu
}  // namespace convext
