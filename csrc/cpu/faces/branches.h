// Parallel convolutions of one x, each into its own channels of one result. Their jobs are done side by side: while a
// stretch of x is in the caches every branch reads it, and no stretch comes from memory twice.
//
//     jobs of branch 0    0    1    2    3          done: 0 0 0 1 1 2 1 2 3 ..    by how far each has come
//     jobs of branch 1    0       1       2
//     jobs of branch 2    0    1    2    3
#pragma once
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cpu/faces/atrous.h"
#include "cpu/shared/host.h"

namespace convext {
namespace cpu {

struct Branch {
  std::vector<Call> parts;  // of a dilated convolution there may be several
  Memory prepared;          // of all parts
};

inline Branch branch_of(const Call& call, const Kernels& kernels) {
  Branch branch{parts_of(call, kernels), Memory(nullptr, &std::free)};
  branch.prepared = allocate(kernels.work(branch.parts[0]).prepared_bytes);
  for (Call& part : branch.parts) part.prepared = branch.prepared.get();
  return branch;
}

struct Step {
  const Call* part;
  int64_t job;
  double at;  // how far the job's middle is along the part, of 1
};

inline std::vector<Step> side_by_side(const std::vector<Branch>& branches, const Kernels& kernels) {
  std::vector<Step> steps;
  for (const Branch& branch : branches)
    for (const Call& part : branch.parts) {
      const int64_t jobs = kernels.work(part).jobs;
      for (int64_t job = 0; job < jobs; ++job) steps.push_back({&part, job, (job + 0.5) / jobs});
    }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.at < b.at; });
  return steps;
}

inline int64_t scratch_of(const std::vector<Branch>& branches, const Kernels& kernels) {
  int64_t bytes = 0;
  for (const Branch& branch : branches)
    for (const Call& part : branch.parts) bytes = std::max(bytes, kernels.work(part).scratch_bytes);
  return bytes;
}

}  // namespace cpu
}  // namespace convext
