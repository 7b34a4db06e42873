// One statement becomes one instruction: its words name what runs, its operands become slots.
#pragma once
#include <initializer_list>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "machine/machine.h"

namespace emulator {

// What all statements of one entry share.
class Registers {
 public:
  Registers(const Module& module, const Entry& entry, Kernel& kernel);
  int size(const std::string& name) const;  // bytes; 0 where no such register is declared
  int slot(const std::string& name);
  int special(const std::string& name);  // -1 where there is none
  int constant(uint64_t value, int size);
  int parameter_address(const Parameter& parameter);
  const Parameter* parameter(const std::string& name) const;
  bool shared_address(const std::string& name, uint64_t& address) const;

 private:
  int allocate(int bytes);
  const Entry& entry_;
  Kernel& kernel_;
  std::map<std::string, int> slots_;
  std::map<std::pair<uint64_t, int>, int> constants_;
  std::map<std::string, uint64_t> shared_;
};

class Decoder {
 public:
  Decoder(const Statement& statement, Registers& registers);
  Instruction I;

  // Words of the opcode after the first. Each has to be taken, or the opcode is not known.
  bool take(const std::string& word);
  std::string take_one(std::initializer_list<const char*> words);  // "" where none is there
  std::string take_type();                                         // the last word that is not taken, a type
  std::string take_starting(const std::string& prefix);
  void finish() const;

  size_t count() const { return statement_.operands.size(); }
  const Operand& operand(size_t i) const;
  void expect(size_t least, size_t most) const;
  void expect(size_t count) const { expect(count, count); }

  int destination(const Operand& o, int size);
  int any_destination(const Operand& o, int& size);  // a register of any size; -1 for _
  int source(const Operand& o, int size);
  int any_source(const Operand& o, int size, int& register_size);  // an immediate takes `size`
  int predicate(const Operand& o);
  std::vector<int> destinations(const Operand& list, int size, size_t count);
  std::vector<int> sources(const Operand& list, int size, size_t count);
  int64_t integer(const Operand& o) const;
  bool is_register(const Operand& o) const { return registers_.size(o.text) != 0; }
  Address address(const Operand& o);  // in a parameter, its offset in them all
  const Parameter* parameter(const Operand& o) const { return registers_.parameter(o.text); }

  [[noreturn]] void refuse(const std::string& why) const;

 private:
  bool immediate(const std::string& text, int size, uint64_t& value) const;
  int touch(int slot);
  const Statement& statement_;
  Registers& registers_;
  std::vector<bool> taken_;
};

using Decode = void (*)(Decoder&);
using Decoders = std::map<std::string, Decode>;  // by first word

void add_arithmetic(Decoders&);
void add_bits(Decoders&);
void add_moves(Decoders&);
void add_memory(Decoders&);
void add_products(Decoders&);
void add_exchanges(Decoders&);
void add_synchronisation(Decoders&);

// ------------------------------------------------------------------ d = Op::of(a, b, ...) in each lane

template <class Op, class D, class... S, size_t... i>
void each_lane_of(Warp& warp, const Instruction& I, Mask mask, std::index_sequence<i...>) {
  D* d = warp.at_slot<D>(I.d[0]);
  const std::tuple<const S*...> sources(warp.at_slot<S>(I.s[i])...);
  if (mask == ALL_LANES) {
#pragma GCC ivdep
    for (int lane = 0; lane < 32; lane++) d[lane] = Op::of(std::get<i>(sources)[lane]...);
  } else {
    for (int lane = 0; lane < 32; lane++) {
      if (in_mask(mask, lane)) d[lane] = Op::of(std::get<i>(sources)[lane]...);
    }
  }
}

template <class Op, class D, class... S>
void each_lane(Warp& warp, const Instruction& I, Mask mask) {
  each_lane_of<Op, D, S...>(warp, I, mask, std::index_sequence_for<S...>());
}

}  // namespace emulator
