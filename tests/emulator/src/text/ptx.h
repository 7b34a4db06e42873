// PTX as text becomes statements: names resolved in their scopes, nothing yet known of what an opcode does.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

// A module that cannot be loaded: malformed, or with an opcode that the emulator does not know.
struct InvalidPtx : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// %r1, -3, 0f3F800000, name, name+16 | [address+8] or [map, {%r1, %r2}] | {%r1, %r2} | %r1|%p2 as a pair.
struct Operand {
  enum Kind { NAME, ADDRESS, LIST, PAIR } kind = NAME;
  std::string text;            // of a NAME; of an ADDRESS without its offset
  int64_t offset = 0;          // of an ADDRESS
  bool negated = false;        // !%p1
  std::vector<Operand> parts;  // of a LIST or a PAIR; the coordinates in an ADDRESS
};

struct Statement {
  std::string guard;  // the predicate, or empty
  bool guard_negated = false;
  std::string opcode;              // "cp.async.ca.shared.global"
  std::vector<std::string> words;  // the same at its dots
  std::vector<Operand> operands;
  std::string text;
  int file = 0, line = 0;  // of the last .loc
  int scope = 0;           // for labels, which may lie ahead
};

struct Parameter {
  std::string name;
  int offset, size;
};

struct Variable {  // in shared memory
  int offset = 0, size = 0, align = 1;
};

struct Entry {
  std::string name;
  std::vector<Parameter> parameters;
  int parameter_bytes = 0;
  int required_threads = 0, most_threads = 1024;
  std::map<std::string, int> registers;    // bytes of those declared one by one; 4 for a predicate
  std::map<std::string, int> families;     // the same for %r<10>: by "%r"
  std::map<std::string, Variable> shared;  // declared in its body
  std::vector<Statement> statements;
  std::map<std::pair<int, std::string>, int> labels;  // (scope, name) -> statement
  std::vector<int> enclosing;                         // scope -> the one around it; -1 for the outermost
};

struct Module {
  std::string target;                      // "sm_90a"
  std::map<int, std::string> files;        // of .loc
  std::map<std::string, Variable> shared;  // declared outside; size 0 where extern: the dynamic part
  std::vector<Entry> entries;
};

// Bytes of the type "b32", "f16x2", ...; 0 where it is none.
int type_size(const std::string& type);

Module parse(const std::string& text);

}  // namespace emulator
