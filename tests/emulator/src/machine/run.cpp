// The scheduler: one warp at a time for a random number of instructions, blocks in a random order.
//
// Lanes that part at a branch meet again at the instruction where they are all next: of the lanes that are alive, those
// at the smallest one run, up to where the next ones wait.
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <numeric>

#include "machine/machine.h"

namespace emulator {

constexpr uint64_t MOST_INSTRUCTIONS = uint64_t(1) << 32;  // of a launch: beyond, it is taken to run for ever
constexpr int MOST_AT_ONCE = 400;                          // instructions that a warp runs before another may

Mask mask_of(Warp& warp, int slot, bool negated) {
  const uint32_t* lanes = warp.at_slot<uint32_t>(slot);
  Mask mask = 0;
#ifdef __SSE2__
  for (int i = 0; i < 8; i++) {
    const __m128 four = _mm_load_ps(reinterpret_cast<const float*>(lanes) + 4 * i);
    mask |= Mask(_mm_movemask_ps(four)) << (4 * i);
  }
#else
  for (int lane = 0; lane < 32; lane++) mask |= (lanes[lane] & 1) << lane;
#endif
  return negated ? ~mask : mask;
}

namespace {

// ------------------------------------------------------------------ lanes

void choose_lanes(Warp& warp) {
  if (!warp.alive) {
    warp.state = Warp::DONE;
    return;
  }
  int first = INT32_MAX, second = INT32_MAX;
  for (int lane = 0; lane < 32; lane++) {
    if (in_mask(warp.alive, lane)) first = std::min(first, warp.lane_at[size_t(lane)]);
  }
  warp.active = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(warp.alive, lane)) continue;
    if (warp.lane_at[size_t(lane)] == first)
      warp.active |= 1u << lane;
    else
      second = std::min(second, warp.lane_at[size_t(lane)]);
  }
  warp.at = first;
  warp.next_at = second;
  warp.diverged = warp.active != warp.alive;
}

void move_lanes(Warp& warp, Mask lanes, int to) {
  for (int lane = 0; lane < 32; lane++) {
    if (in_mask(lanes, lane)) warp.lane_at[size_t(lane)] = to;
  }
}

void branch(Warp& warp, const Instruction& I, Mask taken) {
  if (!warp.diverged && taken == warp.active) {
    warp.at = I.target;
  } else if (!taken) {
    warp.at++;
  } else {
    move_lanes(warp, warp.active & ~taken, warp.at + 1);
    move_lanes(warp, taken, I.target);
    choose_lanes(warp);
  }
}

void leave(Warp& warp, Mask lanes) {
  warp.alive &= ~lanes;
  move_lanes(warp, warp.active & ~lanes, warp.at + 1);
  choose_lanes(warp);
}

// ------------------------------------------------------------------ wgmma's registers

bool in_flight(const Warp& warp, int slot) {
  const auto uses = [&](const Product& p) { return std::count(p.registers.begin(), p.registers.end(), slot) > 0; };
  if (std::any_of(warp.products.begin(), warp.products.end(), uses)) return true;
  for (const auto& group : warp.product_groups) {
    if (std::any_of(group.begin(), group.end(), uses)) return true;
  }
  return false;
}

bool starts_with_wgmma(const Instruction& I) {
  return I.source->words[0] == "wgmma";
}

void check_registers(Warp& warp, const Instruction& I) {
  if (starts_with_wgmma(I)) return;
  if (!warp.products.empty() || !warp.product_groups.empty()) {
    for (const int slot : I.touched) {
      if (in_flight(warp, slot)) fail(warp, I, -1, Fault::OTHER, "touches a register of a wgmma that is in flight");
    }
  }
  if (I.source->words[0] == "mov") return;  // compilers place copies where they like, and ptxas orders them
  const auto note = [&](int slot) {
    if (slot >= 0) warp.written[size_t(slot / 64)] = warp.count;
  };
  for (const int slot : I.d) note(slot);
  for (const int slot : I.dl) note(slot);
}

// ------------------------------------------------------------------ a warp

void execute(Warp& warp, const Instruction& I, Mask mask) {
  if (I.collective && mask != warp.alive) {
    fail(warp, I, -1, Fault::OTHER, text("only lanes 0x%08x execute it, and all of 0x%08x have to", mask, warp.alive));
  }
  I.run(warp, I, mask);
}

void step(Warp& warp, const Instruction& I, Mask mask) {
  switch (I.flow) {
    case Instruction::NEXT:
    case Instruction::POLL:
      if (mask) execute(warp, I, mask);
      warp.at++;
      return;
    case Instruction::BRANCH:
      return branch(warp, I, mask);
    case Instruction::RETURN:
      if (mask)
        leave(warp, mask);
      else
        warp.at++;
      return;
    case Instruction::BARRIER:
      if (mask && mask != warp.alive) {
        fail(warp, I, -1, Fault::OTHER,
             text("a barrier in divergent code: lanes 0x%08x of 0x%08x are here", mask, warp.alive));
      }
      if (mask) I.run(warp, I, mask);
      warp.at++;
      return;
  }
}

void run_warp(Warp& warp, int most) {
  Launch& launch = *warp.block->launch;
  Kernel& kernel = *launch.kernel;
  warp.state = Warp::READY;
  for (int i = 0; i < most && warp.state == Warp::READY; i++) {
    if (warp.diverged && warp.at >= warp.next_at) {
      move_lanes(warp, warp.active, warp.at);
      choose_lanes(warp);
    }
    const Instruction& I = kernel.code[size_t(warp.at)];
    const Mask mask = I.guard < 0 ? warp.active : warp.active & mask_of(warp, I.guard, I.guard_negated);
    kernel.executed[size_t(I.opcode)]++;
    warp.count++;
    launch.instructions++;
    if (kernel.uses_wgmma) check_registers(warp, I);
    step(warp, I, mask);
  }
}

void start_warp(Warp& warp, Block& block, int id) {
  const Launch& launch = *block.launch;
  const Kernel& kernel = *launch.kernel;
  std::vector<uint8_t> storage = std::move(warp.storage);
  warp = Warp();
  warp.block = &block;
  warp.id = id;
  warp.storage = std::move(storage);
  warp.storage.assign(size_t(kernel.register_bytes) + 64, 0xff);
  warp.registers = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(warp.storage.data()) + 63) / 64 * 64);
  if (kernel.uses_wgmma) warp.written.assign(size_t(kernel.register_bytes / 64 + 1), 0);
  const uint64_t threads = launch.threads.count();
  const uint64_t here = std::min<uint64_t>(32, threads - 32 * uint64_t(id));
  warp.alive = warp.active = here == 32 ? ALL_LANES : (1u << here) - 1;
  for (const auto& [slot, bytes] : kernel.constants) std::memcpy(warp.registers + slot, bytes.data(), bytes.size());
  for (const auto& [slot, offset] : kernel.parameter_addresses) {
    std::fill_n(warp.at_slot<uint64_t>(slot), 32, reinterpret_cast<uint64_t>(launch.parameters) + uint64_t(offset));
  }
  const auto axis = [](const Dim3& d, char name) { return name == 'x' ? d.x : name == 'y' ? d.y : d.z; };
  for (const auto& [name, slot] : kernel.specials) {
    for (uint32_t lane = 0; lane < 32; lane++) {
      const uint32_t thread = 32 * uint32_t(id) + lane;
      const Dim3 thread_index{thread % launch.threads.x, thread / launch.threads.x % launch.threads.y,
                              thread / (launch.threads.x * launch.threads.y)};
      uint32_t value = lane;  // %laneid
      if (name.rfind("%tid", 0) == 0) value = axis(thread_index, name.back());
      if (name.rfind("%ntid", 0) == 0) value = axis(launch.threads, name.back());
      if (name.rfind("%ctaid", 0) == 0) value = axis(block.index, name.back());
      if (name.rfind("%nctaid", 0) == 0) value = axis(launch.grid, name.back());
      warp.at_slot<uint32_t>(slot)[lane] = value;
    }
  }
}

// ------------------------------------------------------------------ a block

// Opens a barrier at which everyone is whom it waits for. Those who only arrive do not wait themselves.
bool open_barrier(Block& block) {
  const int alive =
      int(std::count_if(block.warps.begin(), block.warps.end(), [](auto& w) { return w.state != Warp::DONE; }));
  for (const Warp& first : block.warps) {
    if (first.state != Warp::AT_BARRIER) continue;
    Knowledge all = first.knowledge;
    int here = block.barriers[first.barrier].waiting;
    if (here) all.join(block.barriers[first.barrier].knowledge);
    for (const Warp& warp : block.warps) {
      if (warp.state != Warp::AT_BARRIER || warp.barrier != first.barrier) continue;
      here++;
      all.join(warp.knowledge);
    }
    if (here < (first.barrier_warps ? first.barrier_warps : alive)) continue;
    const int number = first.barrier;
    for (Warp& warp : block.warps) {
      if (warp.state != Warp::AT_BARRIER || warp.barrier != number) continue;
      warp.knowledge.join(all);
      warp.knowledge.seen[size_t(warp.id)]++;
      warp.state = Warp::READY;
    }
    block.barriers[number] = Barrier();
    block.progress++;
    return true;
  }
  return false;
}

void only_arrive(Block& block, Warp& warp) {
  Barrier& barrier = block.barriers[warp.barrier];
  if (!barrier.waiting++) barrier.knowledge = warp.knowledge;
  barrier.knowledge.join(warp.knowledge);
  warp.knowledge.seen[size_t(warp.id)]++;
  warp.state = Warp::READY;
  block.progress++;
}

[[noreturn]] void deadlock(Block& block) {
  std::string who;
  for (const Warp& warp : block.warps) {
    if (warp.state == Warp::DONE) who += text("\n  warp %d has returned", warp.id);
    if (warp.state == Warp::AT_BARRIER) who += text("\n  warp %d waits at barrier %d", warp.id, warp.barrier);
    if (warp.state == Warp::POLLING) who += text("\n  warp %d waits for an mbarrier", warp.id);
  }
  const auto stuck =
      std::find_if(block.warps.begin(), block.warps.end(), [](auto& w) { return w.state != Warp::DONE; });
  const Instruction& I = block.launch->kernel->code[size_t(std::max(0, stuck->at - 1))];
  fail(*stuck, I, -1, Fault::DEADLOCK, "deadlock:" + who);
}

// Warps that can go on. One that polls can where something has happened since.
std::vector<Warp*> runnable(Block& block) {
  std::vector<Warp*> found;
  for (Warp& warp : block.warps) {
    if (warp.state == Warp::READY || (warp.state == Warp::POLLING && warp.polled != block.progress))
      found.push_back(&warp);
  }
  return found;
}

void land_one(Block& block) {
  const size_t i = block.launch->random() % block.loads.size();
  TileLoad load = std::move(block.loads[i]);
  block.loads.erase(block.loads.begin() + long(i));
  land_tile(block, load);
}

void run_block(Block& block) {
  Launch& launch = *block.launch;
  auto& random = launch.random;
  while (true) {
    if (open_barrier(block)) continue;
    const auto ready = runnable(block);
    if (!block.loads.empty() && (ready.empty() || random() % 4 == 0)) {
      land_one(block);
    } else if (!ready.empty()) {
      Warp& warp = *ready[random() % ready.size()];
      run_warp(warp, 1 + int(random() % MOST_AT_ONCE));
      if (warp.state == Warp::AT_BARRIER && warp.arriving_only) only_arrive(block, warp);
    } else {
      if (std::all_of(block.warps.begin(), block.warps.end(), [](auto& w) { return w.state == Warp::DONE; })) return;
      deadlock(block);
    }
    if (launch.instructions > MOST_INSTRUCTIONS)
      throw Finding(Fault::DEADLOCK, launch.kernel->entry.name + " runs for ever");
  }
}

}  // namespace

void Launch::set_parameters(const std::vector<uint8_t>& values) {
  parameter_storage.assign(values.size() + 128, 0);
  const auto begin = reinterpret_cast<uintptr_t>(parameter_storage.data());
  parameters = reinterpret_cast<uint8_t*>((begin + 127) / 128 * 128);
  parameter_bytes = values.size();
  std::copy(values.begin(), values.end(), parameters);
}

void run(Launch& launch) {
  launch.random.seed(launch.seed);
  std::vector<uint32_t> order(launch.grid.count());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), launch.random);
  order.resize(size_t(std::min<uint64_t>(order.size(), launch.most_blocks)));
  Block block;
  block.launch = &launch;
  const size_t warps = (launch.threads.count() + 31) / 32;
  block.warps.resize(warps);
  for (const uint32_t index : order) {
    block.index = {index % launch.grid.x, index / launch.grid.x % launch.grid.y, index / launch.grid.x / launch.grid.y};
    block.number++;
    if (launch.counters) launch.counters->next_block();
    block.shared.reset(size_t(launch.shared_bytes), warps + 1);
    block.barriers.clear();
    block.transaction_barriers.clear();
    block.loads.clear();
    block.products_in_flight = false;
    for (size_t i = 0; i < warps; i++) {
      start_warp(block.warps[i], block, int(i));
      block.warps[i].knowledge.seen.assign(warps + 1, block.began);
      block.warps[i].knowledge.fenced = block.warps[i].knowledge.seen;
      block.warps[i].knowledge.seen[i]++;
    }
    block.async_now = block.began;
    run_block(block);
    for (const Warp& warp : block.warps) block.began = std::max(block.began, warp.now());
    block.began = std::max(block.began, block.async_now);
  }
}

}  // namespace emulator
