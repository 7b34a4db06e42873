#include "machine/memory.h"

#include <algorithm>

#include "machine/machine.h"

namespace emulator {

void GlobalMemory::add(Allocation allocation) {
  if (allocation.begin >= allocation.end) return;
  auto& all = allocations_;
  for (size_t i = 0; i < all.size();) {
    if (allocation.begin < all[i].end && all[i].begin < allocation.end) {
      if (all[i].name != allocation.name) allocation.name = all[i].name + " and " + allocation.name;
      allocation.begin = std::min(allocation.begin, all[i].begin);
      allocation.end = std::max(allocation.end, all[i].end);
      if (all[i].itemsize != allocation.itemsize) allocation.itemsize = 0;
      all.erase(all.begin() + long(i));
    } else {
      i++;
    }
  }
  const auto place = std::find_if(all.begin(), all.end(), [&](auto& other) { return other.begin > allocation.begin; });
  all.insert(place, std::move(allocation));
  last_ = 0;
}

const Allocation* GlobalMemory::find(uint64_t address, uint64_t bytes) {
  if (last_ < allocations_.size()) {
    const Allocation& a = allocations_[last_];
    if (a.begin <= address && address + bytes <= a.end) return &a;
  }
  const auto after = std::upper_bound(allocations_.begin(), allocations_.end(), address,
                                      [](uint64_t value, const Allocation& a) { return value < a.begin; });
  if (after == allocations_.begin()) return nullptr;
  const Allocation& a = *(after - 1);
  if (address + bytes > a.end) return nullptr;
  last_ = size_t(after - allocations_.begin()) - 1;
  return &a;
}

std::string GlobalMemory::describe(uint64_t address, uint64_t bytes) const {
  const Allocation* nearest = nullptr;
  uint64_t distance = ~uint64_t(0);
  for (const auto& a : allocations_) {
    const uint64_t away = address < a.begin ? a.begin - address : address >= a.end ? address - a.end : 0;
    if (away < distance) {
      distance = away;
      nearest = &a;
    }
  }
  if (!nearest) return "no tensor is known";
  const char* name = nearest->name.c_str();
  const auto size = (unsigned long long)(nearest->end - nearest->begin);
  if (address < nearest->begin) return text("%llu bytes before %s", (unsigned long long)distance, name);
  if (address >= nearest->end) return text("%llu bytes after the end of %s", (unsigned long long)distance, name);
  const auto offset = (unsigned long long)(address - nearest->begin);
  if (address + bytes > nearest->end) return text("byte %llu of %s, across its end at %llu", offset, name, size);
  return text("byte %llu of %s", offset, name);
}

GlobalNote* GlobalMemory::notes(uint64_t address) {
  const uint64_t page = address / PAGE;
  if (page != last_page_) {
    auto& notes = pages_[page];
    if (!notes) notes.reset(new GlobalNote[PAGE / GRAIN]());
    last_page_ = page;
    last_notes_ = notes.get();
  }
  return last_notes_ + address % PAGE / GRAIN;
}

void SharedMemory::reset(size_t bytes, size_t agents) {
  const size_t grains = bytes / GRAIN + 1;
  bytes_.assign(bytes, 0xff);
  written_.assign(grains, 0);
  flight_.assign(grains, LANDED);
  write_lanes_.assign(grains, ANY_LANE);
  read_lanes_.assign(grains, ANY_LANE);
  if (agents != agents_ || writes_.size() != grains * agents) {  // else the times of earlier blocks stay, long over
    agents_ = agents;
    writes_.assign(grains * agents, 0);
    reads_.assign(grains * agents, 0);
    generic_reads_.assign(grains * agents, 0);
  }
}

void Knowledge::join(const Knowledge& other) {
  for (size_t i = 0; i < seen.size(); i++) {
    seen[i] = std::max(seen[i], other.seen[i]);
    fenced[i] = std::max(fenced[i], other.fenced[i]);
  }
}

}  // namespace emulator
