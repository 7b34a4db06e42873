#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "text/ptx.h"

namespace emulator {
namespace {

bool is_space(char c) {
  return std::isspace(static_cast<unsigned char>(c));
}

std::string stripped(const std::string& s) {
  size_t begin = 0, end = s.size();
  while (begin < end && is_space(s[begin])) begin++;
  while (end > begin && is_space(s[end - 1])) end--;
  return s.substr(begin, end - begin);
}

bool starts_with(const std::string& s, const char* prefix) {
  return s.rfind(prefix, 0) == 0;
}

std::vector<std::string> words_of(const std::string& s) {
  std::vector<std::string> words;
  std::string word;
  for (char c : s + " ") {
    if (is_space(c) || c == ',') {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else {
      word += c;
    }
  }
  return words;
}

// At every `separator` outside brackets and braces.
std::vector<std::string> split(const std::string& s, char separator) {
  std::vector<std::string> parts(1);
  int depth = 0;
  for (char c : s) {
    if (c == '{' || c == '[' || c == '(') depth++;
    if (c == '}' || c == ']' || c == ')') depth--;
    if (c == separator && depth == 0) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  for (auto& part : parts) part = stripped(part);
  if (parts.size() == 1 && parts[0].empty()) parts.clear();
  return parts;
}

std::string without_comments(const std::string& text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); i++) {
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') i++;
      result += '\n';
    } else if (text.compare(i, 2, "/*") == 0) {
      i = text.find("*/", i);
      if (i == std::string::npos) throw InvalidPtx("a comment that does not end");
      i++;
      result += ' ';
    } else {
      result += text[i];
    }
  }
  return result;
}

int number(const std::string& word, const std::string& where) {
  char* end;
  const long value = std::strtol(word.c_str(), &end, 0);
  if (word.empty() || *end) throw InvalidPtx("a number was expected in: " + where);
  return int(value);
}

int round_up(int value, int to) {
  return (value + to - 1) / to * to;
}

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(without_comments(text)) {}

  Module run() {
    while (skip_space(), position_ < text_.size()) {
      if (line_directive()) continue;
      if (peek(".section")) {
        skip_braces();
        continue;
      }
      const std::string head = until_any("({;");
      if (head.find(".entry") != std::string::npos) {
        entry(words_of(head).back());
      } else if (head.find(".func") != std::string::npos) {
        throw InvalidPtx("functions are not emulated: " + head);
      } else if (head.find(".shared") != std::string::npos) {
        shared(head, module_.shared);
        position_++;
      } else if (head.find(".global") != std::string::npos || head.find(".weak") != std::string::npos) {
        until_any(";");  // a variable: refused where an instruction names it
        position_++;
      } else {
        throw InvalidPtx("not a directive of a module: " + head.substr(0, 80));
      }
    }
    return std::move(module_);
  }

 private:
  void skip_space() {
    while (position_ < text_.size() && (is_space(text_[position_]) || text_[position_] == ';')) position_++;
  }

  bool peek(const char* word) const { return text_.compare(position_, std::strlen(word), word) == 0; }

  std::string until_any(const char* stops) {
    const size_t end = text_.find_first_of(stops, position_);
    if (end == std::string::npos) throw InvalidPtx("the text ends in: " + stripped(text_.substr(position_, 80)));
    std::string found = stripped(text_.substr(position_, end - position_));
    position_ = end;
    return found;
  }

  void skip_braces() {
    until_any("{");
    until_any("}");
    position_++;
  }

  // .version, .target, .address_size, .file and .loc end with their line, not with a semicolon.
  bool line_directive() {
    for (const char* name : {".version", ".target", ".address_size", ".file", ".loc"}) {
      if (!peek(name) || !is_space(text_[position_ + std::strlen(name)])) continue;
      const std::string line = until_any("\n");
      const auto words = words_of(line);
      if (words.size() < 2) throw InvalidPtx("malformed: " + line);
      if (words[0] == ".target") module_.target = words[1];
      if (words[0] == ".file") file(line, number(words[1], line));
      if (words[0] == ".loc") {
        if (words.size() < 3) throw InvalidPtx("malformed: " + line);
        file_ = number(words[1], line);
        line_ = number(words[2], line);
      }
      return true;
    }
    return false;
  }

  // .file 1 "folder" "name", or .file 1 "path"
  void file(const std::string& line, int index) {
    std::string path;
    for (size_t open = line.find('"'); open != std::string::npos;) {
      const size_t close = line.find('"', open + 1);
      if (close == std::string::npos) throw InvalidPtx("malformed: " + line);
      path += (path.empty() ? "" : "/") + line.substr(open + 1, close - open - 1);
      open = line.find('"', close + 1);
    }
    module_.files[index] = path;
  }

  // .shared .align 16 .b8 name[1024]
  static void shared(const std::string& declaration, std::map<std::string, Variable>& into) {
    const auto words = words_of(declaration);
    Variable variable;
    int element = 0;
    for (size_t i = 0; i + 1 < words.size(); i++) {
      if (words[i] == ".align") variable.align = number(words[i + 1], declaration);
      if (words[i][0] == '.' && type_size(words[i].substr(1))) element = type_size(words[i].substr(1));
    }
    const std::string& name = words.back();
    const size_t bracket = name.find('[');
    if (!element) throw InvalidPtx("no type in: " + declaration);
    const std::string count = bracket == std::string::npos ? "1" : name.substr(bracket + 1, name.size() - bracket - 2);
    variable.size = count.empty() ? 0 : element * number(count, declaration);
    variable.align = std::max(variable.align, element);
    into[name.substr(0, bracket)] = variable;
  }

  void entry(const std::string& name) {
    entry_ = Entry();
    entry_.name = name;
    scopes_.assign(1, {});
    scope_ids_.assign(1, 0);
    entry_.enclosing.assign(1, -1);
    if (text_[position_] == '(') {
      position_++;
      parameters(until_any(")"));
      position_++;
    }
    directives(until_any("{"));
    position_++;
    body();
    module_.entries.push_back(std::move(entry_));
  }

  // .param .align 64 .b8 name[128], .param .u64 .ptr .global .align 1 name
  void parameters(const std::string& list) {
    for (const std::string& one : split(list, ',')) {
      const auto words = words_of(one);
      int size = 0, align = 0, count = 1;
      bool pointer = false;
      for (size_t i = 0; i + 1 < words.size(); i++) {
        if (words[i] == ".ptr") pointer = true;  // .align is then of what it points to
        if (words[i] == ".align" && !pointer) align = number(words[i + 1], one);
        if (words[i][0] == '.' && !size) size = type_size(words[i].substr(1));
      }
      std::string name = words.back();
      if (const size_t bracket = name.find('['); bracket != std::string::npos) {
        count = number(name.substr(bracket + 1, name.size() - bracket - 2), one);
        name.resize(bracket);
      }
      if (!size) throw InvalidPtx("no type in the parameter: " + one);
      const int offset = round_up(entry_.parameter_bytes, align ? align : size);
      entry_.parameters.push_back({name, offset, size * count});
      entry_.parameter_bytes = offset + size * count;
    }
  }

  void directives(const std::string& text) {
    const auto words = words_of(text);
    for (size_t i = 0; i < words.size(); i++) {
      int threads = 1;
      size_t next = i + 1;
      while (next < words.size() && std::isdigit(static_cast<unsigned char>(words[next][0]))) {
        threads *= number(words[next++], text);
      }
      if (words[i] == ".reqntid") {
        entry_.required_threads = threads;
      } else if (words[i] == ".maxntid") {
        entry_.most_threads = threads;
      } else if (words[i] != ".minnctapersm" && words[i] != ".maxnreg") {
        throw InvalidPtx("the directive " + words[i] + " is not emulated");
      }
      i = next - 1;
    }
  }

  void body() {
    while (true) {
      skip_space();
      if (position_ >= text_.size()) throw InvalidPtx("the body of " + entry_.name + " does not end");
      const char c = text_[position_];
      if (c == '{') {
        position_++;
        entry_.enclosing.push_back(scope_ids_.back());
        scope_ids_.push_back(int(entry_.enclosing.size()) - 1);
        scopes_.emplace_back();
      } else if (c == '}') {
        position_++;
        scopes_.pop_back();
        scope_ids_.pop_back();
        if (scopes_.empty()) return;
      } else if (!line_directive() && !label()) {
        statement(until_semicolon());
      }
    }
  }

  // Braces within a statement enclose lists.
  std::string until_semicolon() {
    const size_t end = text_.find(';', position_);
    if (end == std::string::npos) throw InvalidPtx("the text ends in: " + stripped(text_.substr(position_, 80)));
    std::string found = stripped(text_.substr(position_, end - position_));
    position_ = end + 1;
    return found;
  }

  bool label() {
    size_t end = position_;
    while (end < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[end])) || std::strchr("$_%", text_[end])))
      end++;
    if (end == position_ || end >= text_.size() || text_[end] != ':' || text_[end + 1] == ':') return false;
    const std::pair<int, std::string> key(scope_ids_.back(), text_.substr(position_, end - position_));
    if (!entry_.labels.emplace(key, int(entry_.statements.size())).second) {
      throw InvalidPtx("two labels are called " + key.second);
    }
    position_ = end + 1;
    return true;
  }

  void statement(const std::string& text) {
    if (starts_with(text, ".reg")) return declare(text);
    if (starts_with(text, ".pragma")) return;
    if (starts_with(text, ".shared")) return shared(text, entry_.shared);
    if (starts_with(text, ".local")) return;  // a stack: whoever names it is refused
    if (text[0] == '.') throw InvalidPtx("the directive is not emulated: " + text.substr(0, 80));
    instruction(text);
  }

  // .reg .b32 %r<10>;   .reg .pred p, q;
  void declare(const std::string& text) {
    const auto words = words_of(text);
    const int size = words.size() > 2 ? type_size(words[1].substr(1)) : 0;
    if (!size) throw InvalidPtx("malformed: " + text);
    for (size_t i = 2; i < words.size(); i++) {
      const size_t bracket = words[i].find('<');
      if (bracket != std::string::npos) {
        entry_.families[words[i].substr(0, bracket)] = size;
        continue;
      }
      const bool outermost = scopes_.size() == 1;
      const std::string unique = outermost ? words[i] : words[i] + "@" + std::to_string(scope_ids_.back());
      scopes_.back()[words[i]] = unique;
      entry_.registers[unique] = size;
    }
  }

  std::string resolved(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
    }
    return name;
  }

  void instruction(const std::string& text) {
    Statement s;
    s.text = text;
    s.file = file_;
    s.line = line_;
    s.scope = scope_ids_.back();
    std::string rest = text;
    if (rest[0] == '@') {
      const size_t end = rest.find_first_of(" \t\n");
      if (end == std::string::npos) throw InvalidPtx("malformed: " + text);
      s.guard_negated = rest[1] == '!';
      s.guard = resolved(rest.substr(s.guard_negated ? 2 : 1, end - (s.guard_negated ? 2 : 1)));
      rest = stripped(rest.substr(end));
    }
    const size_t end = std::min(rest.find_first_of(" \t\n[{"), rest.size());
    s.opcode = rest.substr(0, end);
    for (size_t dot = 0; dot != std::string::npos;) {
      const size_t next = s.opcode.find('.', dot);
      s.words.push_back(s.opcode.substr(dot, next == std::string::npos ? next : next - dot));
      dot = next == std::string::npos ? next : next + 1;
    }
    for (const auto& part : split(stripped(rest.substr(end)), ',')) s.operands.push_back(operand(part));
    entry_.statements.push_back(std::move(s));
  }

  Operand operand(const std::string& text) const {
    Operand o;
    if (text.empty()) throw InvalidPtx("an operand is missing");
    if (const auto pair = split(text, '|'); pair.size() == 2) {
      o.kind = Operand::PAIR;
      for (const auto& part : pair) o.parts.push_back(operand(part));
      return o;
    }
    const std::string inner = stripped(text.substr(1, text.size() - 2 * (text.size() > 1)));
    if (text[0] == '{') {
      o.kind = Operand::LIST;
      for (const auto& part : split(inner, ',')) o.parts.push_back(operand(part));
      return o;
    }
    if (text[0] == '[') {
      o.kind = Operand::ADDRESS;
      const auto parts = split(inner, ',');
      if (parts.empty()) throw InvalidPtx("an empty address: " + text);
      const size_t plus = parts[0].find('+');
      o.text = resolved(stripped(parts[0].substr(0, plus)));
      if (plus != std::string::npos) o.offset = std::strtoll(parts[0].c_str() + plus + 1, nullptr, 0);
      for (size_t i = 1; i < parts.size(); i++) o.parts.push_back(operand(parts[i]));
      return o;
    }
    o.negated = text[0] == '!';
    o.text = resolved(o.negated ? stripped(text.substr(1)) : text);
    return o;
  }

  std::string text_;
  size_t position_ = 0;
  Module module_;
  Entry entry_;
  std::vector<std::map<std::string, std::string>> scopes_;  // names as written -> unique ones
  std::vector<int> scope_ids_;
  int file_ = 0, line_ = 0;
};

}  // namespace

int type_size(const std::string& type) {
  static const std::map<std::string, int> sizes = {
      {"pred", 4}, {"b8", 1},   {"u8", 1},  {"s8", 1},  {"b16", 2},   {"u16", 2},    {"s16", 2},
      {"f16", 2},  {"bf16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4},   {"f32", 4},    {"tf32", 4},
      {"b64", 8},  {"u64", 8},  {"s64", 8}, {"f64", 8}, {"f16x2", 4}, {"bf16x2", 4}, {"f32x2", 8},
  };
  const auto found = sizes.find(type);
  return found == sizes.end() ? 0 : found->second;
}

Module parse(const std::string& text) {
  return Parser(text).run();
}

}  // namespace emulator
