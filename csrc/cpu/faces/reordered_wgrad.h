// The weight gradient of tensors whose rows are innermost, by the loops of those whose channels are: what a job reads
// of a vector of channels is transposed into scratch (reordered.h).
#pragma once
#include "cpu/faces/innermost_wgrad.h"
#include "cpu/faces/reordered.h"

namespace convext {
namespace cpu {
namespace CONVEXT_ISA {

struct ReorderedWgrad {
  int64_t vectors, shares;  // vectors of channels, and how many jobs share the sums of one
  Blocks blocks;
  int64_t x_size, y_size;  // pixels of the operands, at most, that a block reads
  int64_t of_vector;       // sums of a vector of channels
};

template <class T>
inline ReorderedWgrad reordered_wgrad_of(const Problem& p) {
  using A = typename Sum<T>::type;
  constexpr int64_t lanes = Lanes<A>::count, fewest = 16;  // jobs
  ReorderedWgrad g;
  g.vectors = over(p.k, lanes);
  g.blocks = blocks_of<A>(p, lanes, lanes, SCRATCH, p.n * g.vectors);
  g.shares = least(p.n * product(g.blocks.count), over(fewest, g.vectors));
  g.x_size = 1, g.y_size = product(g.blocks.size);
  for (int i = 0; i < AXES; ++i) g.x_size *= least(p.input[i], reach_of(g.blocks.axis[i], g.blocks.size[i]));
  g.of_vector = p.c / p.groups * product(p.kernel) * lanes;
  return g;
}

template <class T>
inline Work reordered_wgrad_work(const Problem& p) {
  using A = typename Sum<T>::type;
  const ReorderedWgrad g = reordered_wgrad_of<T>(p);
  const int64_t pixels = (g.x_size + g.y_size) * Lanes<A>::count;
  return {g.vectors * g.shares, pixels * int64_t(sizeof(A)),
          g.shares * g.vectors * g.of_vector * int64_t(sizeof(double)),
          p.n * g.vectors * product(g.blocks.count) * pixels};
}

template <class T, int GROUP>
struct ReorderedWgradJob {
  using A = typename Sum<T>::type;
  static constexpr int64_t lanes = Lanes<A>::count;

  const Call& call;
  const Problem& p = call.problem;
  const ReorderedWgrad g = reordered_wgrad_of<T>(p);
  Call inner{};  // of one vector of channels
  A *x, *y;

  ReorderedWgradJob(const Call& c, void* scratch) : call(c) {
    x = static_cast<A*>(scratch), y = x + g.x_size * lanes;
    inner.problem = for_vector(p, lanes);
  }

  void run(int64_t job) {
    const int64_t vector = job / g.shares, share = job % g.shares, channel = vector * lanes;
    const int64_t channels = least(lanes, p.k - channel), block_count = product(g.blocks.count);
    const int64_t units = p.n * block_count;
    double* totals = static_cast<double*>(call.prepared) + (share * g.vectors + vector) * g.of_vector;
    for (int64_t i = 0; !call.continues && i < g.of_vector; ++i) totals[i] = 0;
    for (int64_t unit = units * share / g.shares; unit < units * (share + 1) / g.shares; ++unit) {
      const int64_t image = unit / block_count;
      const Block block = block_at(g.blocks, unit % block_count);
      reorder_block(planes_of<const T>(call.a, image, channel, channels), window_at(g.blocks, block, p.input), x,
                    inner.a);
      reorder_block(planes_of<const T>(call.b, image, channel, channels), block, y, inner.b);
      add(block, totals);
    }
  }

 private:
  void add(const Block& block, double* totals) const {
    const InnermostWgradJob<A, GROUP> loops(inner);
    const int64_t *first = block.first, *count = block.count, end[] = {0, first[1] + count[1], first[2] + count[2]};
    const int64_t rows = most(STRIP / count[2], 1);  // of a strip
    for (int64_t z = first[0]; z < first[0] + count[0]; ++z)
      for (int64_t row = first[1]; row < end[1]; row += rows)
        for (int64_t c = first[2]; c < end[2]; c += RUN)
          loops.template add<1>({0, z, row, least(rows, end[1] - row), c, least(c + RUN, end[2])}, 0, totals);
  }
};

template <class T>
void reordered_wgrad_run(const Call& call, int64_t first, int64_t last, void* scratch) {
  for_group<typename Sum<T>::type>(call.problem, [&](auto group) {
    ReorderedWgradJob<T, decltype(group)::value> thread(call, scratch);
    for (int64_t job = first; job < last; ++job) thread.run(job);
  });
}

}  // namespace CONVEXT_ISA
}  // namespace cpu
}  // namespace convext
