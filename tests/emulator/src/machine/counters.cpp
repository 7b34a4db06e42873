#include "machine/counters.h"

#include <algorithm>
#include <vector>

namespace emulator {
namespace {

constexpr uint64_t SECTOR = 32, WORD = 4, BANKS = 32;

void count_sectors(Sectors& sectors, const Request& request, uint64_t bytes) {
  if (!request.lanes) return;
  std::array<uint64_t, 32> begins = request.address;
  std::sort(begins.begin(), begins.begin() + request.lanes);
  uint64_t end = 0, next_sector = 0;  // of what was counted
  for (int i = 0; i < request.lanes; i++) {
    const uint64_t begin = begins[size_t(i)], last = begin + bytes;
    if (last > end) sectors.used_bytes += last - std::max(begin, end);
    end = std::max(end, last);
    const uint64_t first = std::max(begin / SECTOR, next_sector), after = (last - 1) / SECTOR + 1;
    if (after > first) sectors.asked += after - first;
    next_sector = std::max(next_sector, after);
  }
  sectors.requests++;
}

// Distinct words among some lanes, sorted.
std::vector<uint64_t> words_of(const Request& request, uint64_t bytes, int first_lane, int last_lane) {
  std::vector<uint64_t> words;
  for (int i = 0; i < request.lanes; i++) {
    const int lane = request.lane[size_t(i)];
    if (lane < first_lane || lane >= last_lane) continue;
    const uint64_t begin = request.address[size_t(i)];
    for (uint64_t word = begin / WORD; word <= (begin + bytes - 1) / WORD; word++) words.push_back(word);
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return words;
}

void count_wavefronts(Wavefronts& wavefronts, const Request& request, uint64_t bytes) {
  if (!request.lanes) return;
  const int together = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
  for (int first = 0; first < 32; first += together) {
    std::array<uint64_t, BANKS> of_bank{};
    for (const uint64_t word : words_of(request, bytes, first, first + together)) of_bank[word % BANKS]++;
    wavefronts.needed += *std::max_element(of_bank.begin(), of_bank.end());
  }
  wavefronts.least += (words_of(request, bytes, 0, 32).size() + BANKS - 1) / BANKS;
  wavefronts.requests++;
}

}  // namespace

void Counters::reads(uint64_t begin, uint64_t end) {
  for (uint64_t sector = begin / SECTOR; sector * SECTOR < end; sector++) from_l2_ += seen_.insert(sector).second;
}

void Counters::load(const Request& request, int bytes) {
  count_sectors(loads_, request, uint64_t(bytes));
  for (int i = 0; i < request.lanes; i++)
    reads(request.address[size_t(i)], request.address[size_t(i)] + uint64_t(bytes));
}

void Counters::store(const Request& request, int bytes) {
  count_sectors(stores_, request, uint64_t(bytes));
}

void Counters::shared_load(const Request& request, int bytes) {
  count_wavefronts(shared_loads_, request, uint64_t(bytes));
}

void Counters::shared_store(const Request& request, int bytes) {
  count_wavefronts(shared_stores_, request, uint64_t(bytes));
}

void Counters::tile() {
  tiles_.requests++;
}

void Counters::tile_line(uint64_t begin, uint64_t end) {
  if (begin >= end) return;
  tiles_.used_bytes += end - begin;
  tiles_.asked += (end - 1) / SECTOR - begin / SECTOR + 1;
  reads(begin, end);
}

std::string Counters::lines() const {
  std::string all;
  const auto line = [&](const std::string& name, uint64_t value) { all += name + " " + std::to_string(value) + "\n"; };
  line("blocks", blocks_);
  for (const auto& [name, sectors] :
       {std::pair<const char*, const Sectors&>("load", loads_), {"store", stores_}, {"tile", tiles_}}) {
    line(std::string(name) + "_requests", sectors.requests);
    line(std::string(name) + "_sectors", sectors.asked);
    line(std::string(name) + "_bytes", sectors.used_bytes);
  }
  for (const auto& [name, waves] :
       {std::pair<const char*, const Wavefronts&>("shared_load", shared_loads_), {"shared_store", shared_stores_}}) {
    line(std::string(name) + "_requests", waves.requests);
    line(std::string(name) + "_wavefronts", waves.needed);
    line(std::string(name) + "_least", waves.least);
  }
  line("sectors_from_l2", from_l2_);
  line("tensor_multiply_adds", multiply_adds_);
  return all;
}

}  // namespace emulator
