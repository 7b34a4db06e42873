// Barriers, mbarriers and fences (PTX ISA 9.7.13 and 9.7.14). Who waits is settled by the scheduler, in run.cpp.
#include "text/decode.h"

namespace emulator {

// The phase ends when all arrivals and all bytes are there; those who wait for it then know what the arrivals knew.
void arrive(Block& block, TransactionBarrier& barrier, uint32_t arrivals, int64_t bytes) {
  barrier.pending -= arrivals;
  barrier.bytes += bytes;
  if (barrier.pending || barrier.bytes) return;
  barrier.phase = !barrier.phase;
  barrier.pending = barrier.expected;
  block.progress++;
}

namespace {

// ------------------------------------------------------------------ bar

// The whole warp is here: run.cpp has seen to it.
void at_barrier(Warp& warp, const Instruction& I, Mask) {
  warp.barrier = I.s[0] < 0 ? I.number : int(warp.at_slot<uint32_t>(I.s[0])[0]);
  const int threads = I.s[1] < 0 ? I.k : int(warp.at_slot<uint32_t>(I.s[1])[0]);
  if (warp.barrier < 0 || warp.barrier > 15)
    fail(warp, I, -1, Fault::OTHER, text("there is no barrier %d", warp.barrier));
  if (threads % 32) fail(warp, I, -1, Fault::OTHER, text("a barrier for %d threads, no multiple of 32", threads));
  warp.barrier_warps = threads / 32;
  warp.arriving_only = I.flag;
  warp.state = Warp::AT_BARRIER;
}

// Lanes of a warp run together here: all that changes is what is known to be over.
void warp_barrier(Warp& warp, const Instruction&, Mask) {
  warp.knowledge.seen[size_t(warp.id)]++;
}

void decode_barrier(Decoder& D) {
  Instruction& I = D.I;
  if (D.take("warp")) {
    if (!D.take("sync")) D.refuse("only bar.warp.sync is known");
    D.expect(1);
    D.source(D.operand(0), 4);
    I.run = warp_barrier;
    I.collective = true;
    return;
  }
  D.take("cta");
  I.flag = D.take("arrive");
  if (!I.flag && !D.take("sync")) D.refuse("only .sync and .arrive are known");
  D.expect(I.flag ? 2 : 1, 2);
  if (D.is_register(D.operand(0)))
    I.s[0] = D.source(D.operand(0), 4);
  else
    I.number = int(D.integer(D.operand(0)));
  if (D.count() == 2) {
    if (D.is_register(D.operand(1)))
      I.s[1] = D.source(D.operand(1), 4);
    else
      I.k = int(D.integer(D.operand(1)));
  }
  I.flow = Instruction::BARRIER;
  I.run = at_barrier;
}

// ------------------------------------------------------------------ mbarrier

TransactionBarrier& barrier_at(Warp& warp, const Instruction& I, int lane, uint32_t address) {
  const auto found = warp.block->transaction_barriers.find(address);
  if (found == warp.block->transaction_barriers.end()) {
    fail(warp, I, lane, Fault::OTHER, text("there is no mbarrier at shared byte %u", address));
  }
  shared_for_read(warp, I, lane, address, 8);
  return found->second;
}

void initialise(Warp& warp, const Instruction& I, Mask mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const auto address = uint32_t(address_of(warp, I.to, lane));
    const uint32_t count = warp.at_slot<uint32_t>(I.s[0])[lane];
    if (count == 0 || count >= 1u << 20) fail(warp, I, lane, Fault::OTHER, text("an mbarrier for %u arrivals", count));
    shared_for_write(warp, I, lane, address, 8, nullptr);
    TransactionBarrier& barrier = warp.block->transaction_barriers[address] = TransactionBarrier();
    barrier.expected = barrier.pending = count;
    barrier.knowledge.seen.assign(warp.knowledge.seen.size(), 0);
    barrier.knowledge.fenced = barrier.knowledge.seen;
  }
}

void invalidate(Warp& warp, const Instruction& I, Mask mask) {
  Block& block = *warp.block;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const auto address = uint32_t(address_of(warp, I.to, lane));
    barrier_at(warp, I, lane, address);
    for (const auto& load : block.loads) {
      if (load.barrier == address)
        fail(warp, I, lane, Fault::OTHER, "invalidates an mbarrier that TMA has still to reach");
    }
    shared_for_write(warp, I, lane, address, 8, nullptr);
    block.transaction_barriers.erase(address);
  }
}

// With .expect_tx, I.s[0] bytes more have to come before the phase ends.
void arrive_at(Warp& warp, const Instruction& I, Mask mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const auto address = uint32_t(address_of(warp, I.to, lane));
    TransactionBarrier& barrier = barrier_at(warp, I, lane, address);
    if (barrier.pending == 0) fail(warp, I, lane, Fault::OTHER, "more arrivals than the mbarrier expects");
    barrier.knowledge.join(warp.knowledge);
    const uint32_t bytes = I.s[0] < 0 ? 0 : warp.at_slot<uint32_t>(I.s[0])[lane];
    arrive(*warp.block, barrier, 1, int64_t(bytes));
  }
  warp.knowledge.seen[size_t(warp.id)]++;
}

// True where the phase of the given parity is over.
void try_wait(Warp& warp, const Instruction& I, Mask mask) {
  bool all = true;
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const auto address = uint32_t(address_of(warp, I.from, lane));
    const TransactionBarrier& barrier = barrier_at(warp, I, lane, address);
    const bool parity = warp.at_slot<uint32_t>(I.s[0])[lane] & 1, over = barrier.phase != parity;
    warp.at_slot<uint32_t>(I.d[0])[lane] = over ? ~0u : 0;
    if (over) warp.knowledge.join(barrier.knowledge);
    all &= over;
  }
  if (!all) {
    warp.state = Warp::POLLING;
    warp.polled = warp.block->progress;
  }
}

void decode_transaction_barrier(Decoder& D) {
  Instruction& I = D.I;
  if (!(D.take("shared::cta") || D.take("shared")) || !D.take("b64")) D.refuse("only .b64 in .shared is known");
  I.space = Space::SHARED;
  if (D.take("init")) {
    D.expect(2);
    I.to = D.address(D.operand(0));
    I.s[0] = D.source(D.operand(1), 4);
    I.run = initialise;
  } else if (D.take("inval")) {
    D.expect(1);
    I.to = D.address(D.operand(0));
    I.run = invalidate;
  } else if (D.take("arrive")) {
    const bool bytes = D.take("expect_tx");
    D.expect(bytes ? 3 : 2);
    if (D.operand(0).text != "_") D.refuse("its state is not kept here: _ was expected");
    I.to = D.address(D.operand(1));
    if (bytes) I.s[0] = D.source(D.operand(2), 4);
    I.run = arrive_at;
  } else if (D.take("try_wait")) {
    if (!D.take("parity")) D.refuse("only waiting for a parity is known");
    D.expect(3);
    I.d[0] = D.destination(D.operand(0), 4);
    I.from = D.address(D.operand(1));
    I.s[0] = D.source(D.operand(2), 4);
    I.flow = Instruction::POLL;
    I.run = try_wait;
  } else {
    D.refuse("only .init, .inval, .arrive and .try_wait are known");
  }
}

// ------------------------------------------------------------------ fence

// What the warp knows to be over, of its own too, lies before later accesses of the asynchronous proxy.
void fence_proxy(Warp& warp, const Instruction&, Mask) {
  auto& known = warp.knowledge;
  known.fenced = known.seen;
  known.seen[size_t(warp.id)]++;  // what it writes from now on does not
}

void decode_fence(Decoder& D) {
  D.expect(0);
  if (!D.take("proxy") || !D.take("async")) D.refuse("only fence.proxy.async is known");
  D.take_one({"shared::cta", "global"});
  D.I.run = fence_proxy;
}

}  // namespace

void add_synchronisation(Decoders& all) {
  all["bar"] = all["barrier"] = decode_barrier;
  all["mbarrier"] = decode_transaction_barrier;
  all["fence"] = decode_fence;
}

}  // namespace emulator
