#include "text/decode.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>

#include "instructions/numbers.h"

namespace emulator {
namespace {

int round_up(int value, int to) {
  return (value + to - 1) / to * to;
}

// Name -> offset of the shared variables: the static ones in order, then those that share the dynamic part.
std::map<std::string, uint64_t> laid_out(const Module& module, const Entry& entry, Kernel& kernel) {
  std::map<std::string, uint64_t> offsets;
  std::vector<std::string> dynamic;
  int end = 0;
  for (const auto* variables : {&module.shared, &entry.shared}) {
    for (const auto& [name, variable] : *variables) {
      if (variable.size == 0) {
        dynamic.push_back(name);
        continue;
      }
      end = round_up(end, variable.align);
      offsets[name] = uint64_t(end);
      end += variable.size;
    }
  }
  kernel.static_shared = round_up(end, 16);
  for (const auto& name : dynamic) offsets[name] = uint64_t(kernel.static_shared);
  return offsets;
}

const std::set<std::string> SPECIALS = {
    "%tid.x",   "%tid.y",   "%tid.z",    "%ntid.x",   "%ntid.y",   "%ntid.z", "%ctaid.x",
    "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid",
};

}  // namespace

// ------------------------------------------------------------------ registers

Registers::Registers(const Module& module, const Entry& entry, Kernel& kernel)
    : entry_(entry), kernel_(kernel), shared_(laid_out(module, entry, kernel)) {}

int Registers::allocate(int bytes) {
  const int slot = kernel_.register_bytes;
  kernel_.register_bytes = round_up(slot + bytes, 64);
  return slot;
}

int Registers::size(const std::string& name) const {
  if (const auto found = entry_.registers.find(name); found != entry_.registers.end()) return found->second;
  size_t digits = name.size();
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1]))) digits--;
  if (digits == name.size()) return 0;
  const auto family = entry_.families.find(name.substr(0, digits));
  return family == entry_.families.end() ? 0 : family->second;
}

int Registers::slot(const std::string& name) {
  const auto found = slots_.find(name);
  return found != slots_.end() ? found->second : slots_[name] = allocate(32 * size(name));
}

int Registers::special(const std::string& name) {
  if (!SPECIALS.count(name)) return -1;
  const auto found = kernel_.specials.find(name);
  return found != kernel_.specials.end() ? found->second : kernel_.specials[name] = allocate(32 * 4);
}

int Registers::constant(uint64_t value, int size) {
  if (size < 8) value &= (uint64_t(1) << (8 * size)) - 1;
  const auto found = constants_.find({value, size});
  if (found != constants_.end()) return found->second;
  const int slot = allocate(32 * size);
  std::vector<uint8_t> bytes(size_t(32 * size));
  for (int lane = 0; lane < 32; lane++) std::memcpy(&bytes[size_t(lane * size)], &value, size_t(size));
  kernel_.constants.emplace_back(slot, std::move(bytes));
  return constants_[{value, size}] = slot;
}

int Registers::parameter_address(const Parameter& parameter) {
  kernel_.parameter_addresses.emplace_back(allocate(32 * 8), parameter.offset);
  return kernel_.parameter_addresses.back().first;
}

const Parameter* Registers::parameter(const std::string& name) const {
  for (const auto& p : entry_.parameters) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

bool Registers::shared_address(const std::string& name, uint64_t& address) const {
  const auto found = shared_.find(name);
  if (found == shared_.end()) return false;
  address = found->second;
  return true;
}

// ------------------------------------------------------------------ statements

Decoder::Decoder(const Statement& statement, Registers& registers)
    : statement_(statement), registers_(registers), taken_(statement.words.size(), false) {
  taken_[0] = true;
  I.source = &statement;
}

void Decoder::refuse(const std::string& why) const {
  throw InvalidPtx("the opcode " + statement_.opcode + " is not emulated: " + why +
                   "\n  in: " + statement_.text.substr(0, 200));
}

bool Decoder::take(const std::string& word) {
  for (size_t i = 1; i < taken_.size(); i++) {
    if (!taken_[i] && statement_.words[i] == word) return taken_[i] = true;
  }
  return false;
}

std::string Decoder::take_one(std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (take(word)) return word;
  }
  return "";
}

std::string Decoder::take_type() {
  for (size_t i = taken_.size(); i-- > 1;) {
    if (taken_[i]) continue;
    if (!type_size(statement_.words[i])) refuse("." + statement_.words[i] + " is no type that is known here");
    taken_[i] = true;
    return statement_.words[i];
  }
  refuse("it has no type");
}

std::string Decoder::take_starting(const std::string& prefix) {
  for (size_t i = 1; i < taken_.size(); i++) {
    if (taken_[i] || statement_.words[i].rfind(prefix, 0) != 0) continue;
    taken_[i] = true;
    return statement_.words[i];
  }
  return "";
}

void Decoder::finish() const {
  for (size_t i = 1; i < taken_.size(); i++) {
    if (!taken_[i]) refuse("the modifier ." + statement_.words[i] + " is not known here");
  }
}

const Operand& Decoder::operand(size_t i) const {
  if (i >= count()) refuse("operand " + std::to_string(i + 1) + " is missing");
  return statement_.operands[i];
}

void Decoder::expect(size_t least, size_t most) const {
  if (count() < least || count() > most) refuse("it has " + std::to_string(count()) + " operands");
}

int Decoder::touch(int slot) {
  I.touched.push_back(slot);
  return slot;
}

int Decoder::any_destination(const Operand& o, int& size) {
  if (o.kind != Operand::NAME || o.negated) refuse("a register was expected");
  if (o.text == "_") return -1;
  size = registers_.size(o.text);
  if (!size) refuse(o.text + " is not declared");
  return touch(registers_.slot(o.text));
}

int Decoder::destination(const Operand& o, int size) {
  int found = size;
  const int slot = any_destination(o, found);
  if (found != size) refuse(o.text + " has " + std::to_string(8 * found) + " bits");
  return slot;
}

int Decoder::any_source(const Operand& o, int size, int& register_size) {
  if (o.kind != Operand::NAME || o.negated) refuse("a register or a number was expected");
  register_size = registers_.size(o.text);
  if (register_size) return touch(registers_.slot(o.text));
  register_size = size;
  uint64_t value;
  if (immediate(o.text, size, value) || registers_.shared_address(o.text, value)) {
    return registers_.constant(value, size);
  }
  if (const Parameter* parameter = registers_.parameter(o.text)) {
    register_size = 8;
    return registers_.parameter_address(*parameter);
  }
  if (const int slot = registers_.special(o.text); slot >= 0) {
    register_size = 4;
    return slot;
  }
  refuse(o.text + " is not known");
}

int Decoder::source(const Operand& o, int size) {
  int found;
  const int slot = any_source(o, size, found);
  if (found != size) refuse(o.text + " has " + std::to_string(8 * found) + " bits");
  return slot;
}

// An immediate predicate is true where it is not 0.
int Decoder::predicate(const Operand& o) {
  uint64_t value;
  if (o.kind == Operand::NAME && !registers_.size(o.text) && immediate(o.text, 4, value)) {
    return registers_.constant(value ? ~uint64_t(0) : 0, 4);
  }
  Operand plain = o;
  plain.negated = false;
  return source(plain, 4);
}

std::vector<int> Decoder::destinations(const Operand& list, int size, size_t count) {
  std::vector<int> slots;
  if (list.kind != Operand::LIST) {
    slots.push_back(destination(list, size));
  } else {
    for (const auto& part : list.parts) slots.push_back(destination(part, size));
  }
  if (slots.size() != count) refuse(std::to_string(count) + " registers were expected");
  return slots;
}

std::vector<int> Decoder::sources(const Operand& list, int size, size_t count) {
  std::vector<int> slots;
  if (list.kind != Operand::LIST) {
    slots.push_back(source(list, size));
  } else {
    for (const auto& part : list.parts) slots.push_back(source(part, size));
  }
  if (slots.size() != count) refuse(std::to_string(count) + " registers were expected");
  return slots;
}

int64_t Decoder::integer(const Operand& o) const {
  uint64_t value;
  if (o.kind != Operand::NAME || !immediate(o.text, 8, value)) refuse("a number was expected instead of " + o.text);
  return int64_t(value);
}

Address Decoder::address(const Operand& o) {
  if (o.kind != Operand::ADDRESS) refuse("an address was expected");
  Address a;
  a.offset = o.offset;
  uint64_t value;
  if (const int size = registers_.size(o.text)) {
    a.slot = touch(registers_.slot(o.text));
    a.wide = size == 8;
  } else if (const Parameter* parameter = registers_.parameter(o.text)) {
    a.offset += parameter->offset;
  } else if (registers_.shared_address(o.text, value) || immediate(o.text, 8, value)) {
    a.offset += int64_t(value);
  } else {
    refuse(o.text + " is not known");
  }
  return a;
}

// 12, -3, 0x1F, 0U, 0f3F800000 (a float32), 0d3FF0000000000000 (a float64)
bool Decoder::immediate(const std::string& text, int size, uint64_t& value) const {
  const bool hexadecimal = text.size() > 2 && text[0] == '0';
  char* end;
  if (hexadecimal && (text[1] == 'f' || text[1] == 'F')) {
    value = std::strtoull(text.c_str() + 2, &end, 16);
    if (size == 8) value = bits_as<uint64_t>(double(bits_as<float>(uint32_t(value))));
    return *end == 0;
  }
  if (hexadecimal && (text[1] == 'd' || text[1] == 'D')) {
    value = std::strtoull(text.c_str() + 2, &end, 16);
    return *end == 0;
  }
  if (text.empty() || !(std::isdigit(static_cast<unsigned char>(text[0])) || text[0] == '-')) return false;
  errno = 0;
  value = text[0] == '-' ? uint64_t(std::strtoll(text.c_str(), &end, 0)) : std::strtoull(text.c_str(), &end, 0);
  while (*end == 'U') end++;
  return *end == 0 && errno == 0;
}

// ------------------------------------------------------------------ an entry

namespace {

const Decoders& decoders() {
  static const Decoders all = [] {
    Decoders made;
    for (const auto add :
         {add_arithmetic, add_bits, add_moves, add_memory, add_products, add_exchanges, add_synchronisation}) {
      add(made);
    }
    return made;
  }();
  return all;
}

int statement_of_label(const Entry& entry, const Statement& branch) {
  for (int scope = branch.scope; scope >= 0; scope = entry.enclosing[size_t(scope)]) {
    const auto found = entry.labels.find({scope, branch.operands.at(0).text});
    if (found != entry.labels.end()) return found->second;
  }
  throw InvalidPtx("no label " + branch.operands.at(0).text + " in " + entry.name);
}

void decode_flow(Decoder& decoder, const Entry& entry, const Statement& statement) {
  Instruction& I = decoder.I;
  if (statement.words[0] == "bra") {
    decoder.take("uni");
    decoder.expect(1);
    I.flow = Instruction::BRANCH;
    I.target = statement_of_label(entry, statement);
  } else {
    decoder.expect(0);
    I.flow = Instruction::RETURN;
  }
}

}  // namespace

std::unique_ptr<Kernel> decode(const Module& module, const Entry& entry) {
  auto kernel = std::make_unique<Kernel>();
  kernel->entry = entry;
  kernel->files = module.files;
  Entry& own = kernel->entry;
  own.statements.emplace_back();  // falling off the end returns
  own.statements.back().opcode = own.statements.back().text = "ret";
  own.statements.back().words = {"ret"};
  Registers registers(module, own, *kernel);
  std::map<std::string, int> opcodes;
  for (const Statement& statement : own.statements) {
    Decoder decoder(statement, registers);
    const std::string& first = statement.words[0];
    if (first == "bra" || first == "ret" || first == "exit") {
      decode_flow(decoder, own, statement);
    } else {
      const auto found = decoders().find(first);
      if (found == decoders().end()) decoder.refuse("nothing begins with " + first);
      found->second(decoder);
    }
    decoder.finish();
    Instruction& I = decoder.I;
    if (!statement.guard.empty()) {
      if (registers.size(statement.guard) != 4) decoder.refuse("@" + statement.guard + " is no predicate");
      I.guard = registers.slot(statement.guard);
      I.guard_negated = statement.guard_negated;
      I.touched.push_back(I.guard);
    }
    I.opcode = opcodes.emplace(statement.opcode, int(opcodes.size())).first->second;
    kernel->uses_wgmma |= first == "wgmma";
    kernel->code.push_back(std::move(I));
  }
  kernel->opcodes.resize(opcodes.size());
  for (const auto& [name, index] : opcodes) kernel->opcodes[size_t(index)] = name;
  kernel->executed.assign(opcodes.size(), 0);
  return kernel;
}

}  // namespace emulator
