// The scheduler behind host_cuda.h: fibers, barriers, warp collectives, asynchronous copies, and a launch's limits.
// Compiled without sanitizers; it tells AddressSanitizer when the stack changes.
#include "host_cuda.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#ifdef CONVEXT_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace convext::host {

Thread current;
dim3 grid_size;

namespace {

constexpr int LANES = 32;
constexpr size_t STACK_BYTES = 256 << 10;
constexpr size_t SHARED_BY_DEFAULT = 48 << 10, SHARED_AT_MOST = 163 << 10;  // of sm_80, the smallest that is served

enum class State { ready, at_barrier, at_collective, done };

struct Copy {
  void* shared;
  const void* global;
  int bytes, group;
};

struct Fiber {
  ucontext_t context;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  State state = State::done;
  Thread identity;
  const char* file = "";
  int line = 0;
  std::vector<Copy> copies;  // asynchronous, in flight
  int groups = 0;            // committed
};

struct Collective {
  const char* name;
  void* operands[LANES];
  int arrived = 0, line = 0;
};

enum Order { SEQUENTIAL, REVERSE, RANDOM, PRIORITY };
Order order = SEQUENTIAL;
std::mt19937 generator;

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Collective> collectives;  // one a warp
std::vector<unsigned> priority;       // of each warp
std::vector<std::vector<int>> ready;  // threads that can run, of each warp
int waiting = 0, finished = 0;        // threads at the barrier, and done
std::map<const void*, size_t> allowed_shared;
ucontext_t scheduler;
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
Fiber* running = nullptr;
unsigned char* shared_begin = nullptr;
int thread_count = 0;
const std::function<void()>* kernel_body = nullptr;
std::string error;

std::string place(const char* file, int line) {
  return std::string(file) + ":" + std::to_string(line);
}

// From the running fiber to the scheduler. A fiber that is done never comes back.
void yield() {
  Fiber* self = running;
#ifdef CONVEXT_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(self->state == State::done ? nullptr : &self->fake_stack, scheduler_stack,
                                 scheduler_stack_bytes);
#endif
  swapcontext(&self->context, &scheduler);
#ifdef CONVEXT_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

void resume(Fiber* fiber) {
  running = fiber;
  current = fiber->identity;
#ifdef CONVEXT_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, STACK_BYTES);
#endif
  swapcontext(&scheduler, &fiber->context);
#ifdef CONVEXT_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  running = nullptr;
}

void fiber_main() {
#ifdef CONVEXT_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*kernel_body)();
  if (!running->copies.empty()) fail("a thread exits with asynchronous copies in flight", "kernel", 0);
  running->state = State::done;
  ++finished;
  yield();
}

void prepare(int thread, dim3 block) {
  if (static_cast<size_t>(thread) >= fibers.size()) {
    fibers.push_back(std::make_unique<Fiber>());
    void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    fibers.back()->stack = static_cast<char*>(stack);
  }
  Fiber& fiber = *fibers[thread];
  fiber.identity = {make_uint3(thread, 0, 0), make_uint3(block.x, block.y, block.z)};
  fiber.copies.clear();
  fiber.groups = 0;
  fiber.fake_stack = nullptr;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = STACK_BYTES;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

void make_ready(int thread) {
  fibers[thread]->state = State::ready;
  ready[thread / LANES].push_back(thread);
}

// The next warp that can run: the first, the last, a random one, or the one of highest priority, which so runs as far
// ahead of the others as barriers let it. Now and then priorities change. -1 where none can run.
int choose_warp() {
  if (order == PRIORITY && generator() % 64 == 0) priority[generator() % priority.size()] = generator();
  std::vector<int> able;
  for (size_t warp = 0; warp < ready.size(); ++warp)
    if (!ready[warp].empty()) able.push_back(static_cast<int>(warp));
  if (able.empty()) return -1;
  if (order == SEQUENTIAL) return able.front();
  if (order == REVERSE) return able.back();
  if (order == RANDOM) return able[generator() % able.size()];
  return *std::max_element(able.begin(), able.end(), [](int a, int b) { return priority[a] < priority[b]; });
}

// Takes a lane of that warp: in lane order backwards, or at random.
int take_lane(std::vector<int>& lanes) {
  if (order >= RANDOM) std::swap(lanes[generator() % lanes.size()], lanes.back());
  const int thread = lanes.back();
  lanes.pop_back();
  return thread;
}

void release_barrier() {
  waiting = 0;
  for (int t = 0; t < thread_count; ++t) {
    if (fibers[t]->line != fibers[0]->line)
      error = "barriers at " + place(fibers[0]->file, fibers[0]->line) + " and " +
              place(fibers[t]->file, fibers[t]->line) + " meet";
    make_ready(t);
  }
}

std::string stuck() {
  std::string message = "the block cannot go on:";
  const char* names[] = {"ready", "at a barrier", "at a warp collective", "done"};
  for (int state = 0; state < 4; ++state) {
    int count = 0;
    const Fiber* first = nullptr;
    for (int t = 0; t < thread_count; ++t)
      if (fibers[t]->state == State(state) && count++ == 0) first = fibers[t].get();
    if (count)
      message += " " + std::to_string(count) + " threads " + names[state] +
                 (State(state) == State::done ? "" : ", " + place(first->file, first->line)) + ";";
  }
  return message;
}

void run_block(dim3 block) {
  ready.assign(thread_count / LANES, {});
  waiting = finished = 0;
  for (int t = 0; t < thread_count; ++t) {
    prepare(t, block);
    make_ready(t);
  }
  collectives.assign(thread_count / LANES, Collective());
  priority.resize(thread_count / LANES);
  for (unsigned& p : priority) p = generator();
  while (error.empty() && finished < thread_count) {
    if (waiting == thread_count) release_barrier();
    const int warp = choose_warp();
    if (warp < 0)
      error = stuck();
    else
      resume(fibers[take_lane(ready[warp])].get());
  }
}

float number(unsigned bits, int which, Numbers numbers) {
  if (numbers == Numbers::tf32) {
    bits &= ~0x1fffu;  // the hardware reads these bits only
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  const uint16_t raw = static_cast<uint16_t>(bits >> 16 * which);
  if (numbers == Numbers::half) return __half2float(__half(__half_raw{raw}));
  return __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{raw}));
}

}  // namespace

unsigned char* dynamic_shared() {
  return shared_begin;
}

void fail(const std::string& message, const char* file, int line) {
  error = message + ", " + place(file, line) + ", block " + std::to_string(current.block.x) + " thread " +
          std::to_string(current.thread.x);
  running->state = State::done;
  yield();
  abort();
}

void barrier(const char* file, int line) {
  running->state = State::at_barrier;
  ++waiting;
  running->file = file, running->line = line;
  yield();
}

void collective(const char* name, void* operand, Compute compute, const char* file, int line) {
  const int thread = static_cast<int>(current.thread.x);
  Collective& c = collectives[thread / LANES];
  if (c.arrived > 0 && (c.line != line || c.name != name))
    fail(std::string(name) + " meets " + c.name + " of line " + std::to_string(c.line), file, line);
  c.name = name, c.line = line;
  c.operands[thread % LANES] = operand;
  running->state = State::at_collective;
  running->file = file, running->line = line;
  if (++c.arrived == LANES) {
    compute(c.operands);
    c.arrived = 0;
    for (int lane = 0; lane < LANES; ++lane) make_ready(thread / LANES * LANES + lane);
  }
  yield();
}

void shuffle(void* value, size_t bytes, int from, const char* file, int line) {
  struct Operand {
    void* value;
    size_t bytes;
    int from;
    char before[8];
  } operand{value, bytes, from, {}};
  memcpy(operand.before, value, bytes);
  collective(
      "shuffle", &operand,
      [](void* const* operands) {
        for (int lane = 0; lane < LANES; ++lane) {
          auto* own = static_cast<Operand*>(operands[lane]);
          memcpy(own->value, static_cast<Operand*>(operands[own->from])->before, own->bytes);
        }
      },
      file, line);
}

// ------------------------------------------------------------------------------------------------ asynchronous copies

void check_address(const void* address, int bytes, int alignment, const char* what, const char* file, int line) {
  if (reinterpret_cast<uintptr_t>(address) % alignment) fail(std::string(what) + ": misaligned address", file, line);
#ifdef CONVEXT_ADDRESS_SANITIZER
  if (bytes > 0 && __asan_region_is_poisoned(const_cast<void*>(address), bytes))
    fail(std::string(what) + ": address out of bounds", file, line);
#else
  (void)bytes;
#endif
}

// Until the wait the destination is NaN in every number format: whoever reads it too early shows in the result.
void cp_async(void* shared, const void* global, int bytes, const char* file, int line) {
  check_address(shared, 16, 16, "cp.async to shared memory", file, line);
  check_address(global, bytes, bytes ? 16 : 1, "cp.async from global memory", file, line);
  if (bytes < 0 || bytes > 16) fail("cp.async: expected 0 to 16 bytes, but got " + std::to_string(bytes), file, line);
  memset(shared, 0xff, 16);
  running->copies.push_back({shared, global, bytes, running->groups});
}

void cp_async_commit() {
  ++running->groups;
}

void cp_async_wait(int pending) {
  auto& copies = running->copies;
  size_t count = 0;
  for (; count < copies.size() && copies[count].group < running->groups - pending; ++count) {
    const Copy& copy = copies[count];
    memset(copy.shared, 0, 16);
    memcpy(copy.shared, copy.global, copy.bytes);
  }
  copies.erase(copies.begin(), copies.begin() + count);
}

// -------------------------------------------------------------------------------------------------------- tensor cores

// Tile i's rows are at the addresses of lanes 8 i to 8 i + 7. Lane l receives elements 2 (l % 4) and the next of row
// l / 4, or, transposed, of column l / 4.
void ldmatrix(unsigned* r, const void* row, bool transposed, const char* file, int line) {
  check_address(row, 16, 16, "ldmatrix", file, line);
  struct Operand {
    unsigned* r;
    const void* row;
    bool transposed;
  } operand{r, row, transposed};
  collective(
      transposed ? "ldmatrix.trans" : "ldmatrix", &operand,
      [](void* const* operands) {
        for (int lane = 0; lane < LANES; ++lane) {
          auto* own = static_cast<Operand*>(operands[lane]);
          for (int tile = 0; tile < 4; ++tile) {
            own->r[tile] = 0;
            for (int i = 0; i < 2; ++i) {
              const int major = lane / 4, minor = 2 * (lane % 4) + i;
              const auto* from = static_cast<Operand*>(operands[8 * tile + (own->transposed ? minor : major)]);
              const unsigned element = static_cast<const uint16_t*>(from->row)[own->transposed ? major : minor];
              own->r[tile] |= element << 16 * i;
            }
          }
        }
      },
      file, line);
}

// PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k8" with TF32. With g = lane / 4 and t = lane % 4:
//     16 bit   a[i] holds (g + 8 (i % 2), 2 t + 8 (i / 2) and the next), b[i] holds (2 t + 8 i and the next, g)
//     TF32     a[i] holds (g + 8 (i % 2), t + 4 (i / 2)),                b[i] holds (t + 4 i, g)
//     d[i] holds (g + 8 (i / 2), 2 t + i % 2)
void mma(float* d, const unsigned* a, const unsigned* b, Numbers numbers, const char* file, int line) {
  struct Operand {
    float* d;
    const unsigned *a, *b;
    Numbers numbers;
  } operand{d, a, b, numbers};
  collective(
      "mma", &operand,
      [](void* const* operands) {
        const Numbers numbers = static_cast<Operand*>(operands[0])->numbers;
        const int packed = numbers == Numbers::tf32 ? 1 : 2, depth = 8 * packed;
        float a[16][16], b[16][8];
        for (int lane = 0; lane < LANES; ++lane) {
          const auto* own = static_cast<Operand*>(operands[lane]);
          const int g = lane / 4, t = lane % 4 * packed;
          for (int j = 0; j < packed; ++j) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + depth / 2 * (i / 2) + j] = number(own->a[i], j, numbers);
            for (int i = 0; i < 2; ++i) b[t + depth / 2 * i + j][g] = number(own->b[i], j, numbers);
          }
        }
        for (int lane = 0; lane < LANES; ++lane) {
          const auto* own = static_cast<Operand*>(operands[lane]);
          for (int i = 0; i < 4; ++i)
            for (int k = 0; k < depth; ++k) own->d[i] += a[lane / 4 + 8 * (i / 2)][k] * b[k][2 * (lane % 4) + i % 2];
        }
      },
      file, line);
}

// -------------------------------------------------------------------------------------------------------------
// launches

cudaError_t allow_shared(const void* kernel, size_t bytes) {
  if (bytes > SHARED_AT_MOST) return cudaErrorInvalidValue;
  allowed_shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t run(const void* kernel, dim3 grid, int threads, size_t shared, const std::function<void()>& body) {
  const size_t limit = allowed_shared.count(kernel) ? allowed_shared[kernel] : SHARED_BY_DEFAULT;
  if (threads < LANES || threads > 1024 || threads % LANES || shared > limit) return cudaErrorInvalidConfiguration;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  thread_count = threads, grid_size = grid, kernel_body = &body;
  error.clear();
  std::vector<uint64_t> blocks(uint64_t(grid.x) * grid.y * grid.z);
  for (uint64_t i = 0; i < blocks.size(); ++i) blocks[i] = order == REVERSE ? blocks.size() - 1 - i : i;
  if (order >= RANDOM) std::shuffle(blocks.begin(), blocks.end(), generator);
  // Exactly as many bytes as asked for: AddressSanitizer sees the first one beyond.
  shared_begin = static_cast<unsigned char*>(aligned_alloc(16, shared ? (shared + 15) / 16 * 16 : 16));
#ifdef CONVEXT_ADDRESS_SANITIZER
  __asan_poison_memory_region(shared_begin + shared, (16 - shared % 16) % 16);
#endif
  for (uint64_t i : blocks) {
    memset(shared_begin, 0xff, shared);  // NaN
    run_block(dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y));
    if (!error.empty()) break;
  }
#ifdef CONVEXT_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(shared_begin, (shared + 15) / 16 * 16);
  if (!error.empty())  // fibers that were left where they stood
    for (auto& fiber : fibers) __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
  free(shared_begin);
  if (!error.empty()) throw std::runtime_error("host build: " + error);
  return cudaSuccess;
}

}  // namespace convext::host

// The schedule of all launches from now on: 0 sequential, 1 reverse, 2 random, 3 random warp priorities.
extern "C" void convext_host_schedule(int order, unsigned seed) {
  convext::host::order = static_cast<convext::host::Order>(order);
  convext::host::generator.seed(seed);
}
