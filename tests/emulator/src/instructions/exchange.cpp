// What lanes of a warp tell each other: shfl.sync, vote.sync, elect.sync (PTX ISA 9.7.9.6 and 9.7.13).
#include <cstring>

#include "text/decode.h"

namespace emulator {
namespace {

// Every lane that executes has to be in its own mask, and every lane of the mask has to execute.
void check_members(Warp& warp, const Instruction& I, Mask mask, int slot) {
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const Mask members = warp.at_slot<uint32_t>(slot)[lane] & warp.alive;
    if (members != mask) {
      fail(warp, I, lane, Fault::OTHER, text("lanes 0x%08x execute it together, its mask says 0x%08x", mask, members));
    }
  }
}

enum Shuffle { UP, DOWN, BUTTERFLY, INDEXED };

void shuffle(Warp& warp, const Instruction& I, Mask mask) {
  check_members(warp, I, mask, I.s[3]);
  uint32_t values[32];
  std::memcpy(values, warp.at_slot<uint32_t>(I.s[0]), sizeof values);
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    const uint32_t by = warp.at_slot<uint32_t>(I.s[1])[lane] & 31, c = warp.at_slot<uint32_t>(I.s[2])[lane];
    const int clamp = int(c & 31), segment = int(c >> 8 & 31), b = int(by);
    const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int from = lane;
    bool valid = false;
    switch (I.k) {
      case UP:
        from = lane - b, valid = from >= most;
        break;
      case DOWN:
        from = lane + b, valid = from <= most;
        break;
      case BUTTERFLY:
        from = lane ^ b, valid = from <= most;
        break;
      case INDEXED:
        from = least | (b & ~segment), valid = from <= most;
        break;
    }
    if (!valid) from = lane;
    if (!in_mask(mask, from)) {
      fail(warp, I, lane, Fault::OTHER, text("a shuffle from lane %d, which does not execute it", from));
    }
    warp.at_slot<uint32_t>(I.d[0])[lane] = values[from];
    if (I.d[1] >= 0) warp.at_slot<uint32_t>(I.d[1])[lane] = valid ? ~0u : 0;
  }
}

void decode_shuffle(Decoder& D) {
  Instruction& I = D.I;
  const std::string mode = D.take_one({"up", "down", "bfly", "idx"});
  if (!D.take("sync") || mode.empty() || !D.take("b32")) D.refuse("only shfl.sync of .b32 is known");
  I.k = mode == "up" ? UP : mode == "down" ? DOWN : mode == "bfly" ? BUTTERFLY : INDEXED;
  D.expect(5);
  const Operand& to = D.operand(0);
  I.d[0] = D.destination(to.kind == Operand::PAIR ? to.parts[0] : to, 4);
  if (to.kind == Operand::PAIR) I.d[1] = D.destination(to.parts[1], 4);
  for (size_t i = 0; i < 4; i++) I.s[i] = D.source(D.operand(i + 1), 4);
  I.run = shuffle;
}

enum Vote { ALL, ANY, UNIFORM, BALLOT };

void vote(Warp& warp, const Instruction& I, Mask mask) {
  check_members(warp, I, mask, I.s[1]);
  const Mask yes = mask_of(warp, I.s[0], I.flag) & mask;
  uint32_t result = yes;
  if (I.k == ALL) result = yes == mask ? ~0u : 0;
  if (I.k == ANY) result = yes ? ~0u : 0;
  if (I.k == UNIFORM) result = yes == mask || yes == 0 ? ~0u : 0;
  for (int lane = 0; lane < 32; lane++) {
    if (in_mask(mask, lane)) warp.at_slot<uint32_t>(I.d[0])[lane] = result;
  }
}

void decode_vote(Decoder& D) {
  Instruction& I = D.I;
  const std::string mode = D.take_one({"all", "any", "uni", "ballot"});
  if (!D.take("sync") || mode.empty() || !D.take(mode == "ballot" ? "b32" : "pred"))
    D.refuse("it is no vote that is known");
  I.k = mode == "all" ? ALL : mode == "any" ? ANY : mode == "uni" ? UNIFORM : BALLOT;
  D.expect(3);
  I.d[0] = D.destination(D.operand(0), 4);
  I.s[0] = D.predicate(D.operand(1));
  I.flag = D.operand(1).negated;
  I.s[1] = D.source(D.operand(2), 4);
  I.run = vote;
}

// The leader is the lowest lane of the mask.
void elect(Warp& warp, const Instruction& I, Mask mask) {
  check_members(warp, I, mask, I.s[0]);
  const int leader = __builtin_ctz(mask);
  for (int lane = 0; lane < 32; lane++) {
    if (!in_mask(mask, lane)) continue;
    if (I.d[0] >= 0) warp.at_slot<uint32_t>(I.d[0])[lane] = uint32_t(leader);
    warp.at_slot<uint32_t>(I.d[1])[lane] = lane == leader ? ~0u : 0;
  }
}

void decode_elect(Decoder& D) {
  Instruction& I = D.I;
  if (!D.take("sync")) D.refuse("only elect.sync is known");
  D.expect(2);
  const Operand& to = D.operand(0);
  if (to.kind != Operand::PAIR) D.refuse("it has a register and a predicate as results");
  int size = 4;
  I.d[0] = D.any_destination(to.parts[0], size);
  I.d[1] = D.destination(to.parts[1], 4);
  I.s[0] = D.source(D.operand(1), 4);
  I.run = elect;
}

}  // namespace

void add_exchanges(Decoders& all) {
  all["shfl"] = decode_shuffle;
  all["vote"] = decode_vote;
  all["elect"] = decode_elect;
}

}  // namespace emulator
