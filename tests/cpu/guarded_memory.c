// Preloaded into a process: aligned blocks, as tensors are, lie in pages of their own beside one that nobody may touch.
//
//     PAGES=after     header | body, which ends here | nothing
//     PAGES=before    header | nothing | body, which begins here
//
// What is freed may not be touched either. Addresses are never used twice.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, SMALLEST = 64 };
static const size_t ARENA = (size_t)16 << 40;  // of addresses, not of memory

static char* arena;
static atomic_size_t used;
static int before;
static int (*plain_memalign)(void**, size_t, size_t);
static void (*plain_free)(void*);

__attribute__((constructor)) static void begin(void) {
  plain_memalign = (int (*)(void**, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
  plain_free = (void (*)(void*))dlsym(RTLD_NEXT, "free");
  const char* side = getenv("PAGES");
  before = side && !strcmp(side, "before");
  char* found = mmap(0, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) abort();
  arena = found;
}

static char* page_of(char* at) {
  return (char*)((uintptr_t)at / PAGE * PAGE);
}

// Where a block's length lies.
static size_t* header_of(char* body) {
  return (size_t*)(page_of(body) - (before ? 2 : 1) * PAGE);
}

int posix_memalign(void** result, size_t alignment, size_t size) {
  if (!arena || size < SMALLEST || alignment > PAGE) return plain_memalign(result, alignment, size);
  const size_t body = (size + alignment - 1) / alignment * alignment, room = (body + PAGE - 1) / PAGE * PAGE;
  const size_t length = room + 2 * PAGE;
  char* block = arena + atomic_fetch_add(&used, length);
  if (block + length > arena + ARENA) return ENOMEM;
  char* pages = block + (before ? 2 : 1) * PAGE;
  const int rights = PROT_READ | PROT_WRITE;
  if (mprotect(block, PAGE, rights) || mprotect(pages, room, rights)) return ENOMEM;
  *result = before ? pages : pages + room - body;
  *header_of(*result) = length;
  return 0;
}

void free(void* block) {
  char* body = block;
  if (!arena || body < arena || body >= arena + ARENA) {
    if (!plain_free) plain_free = (void (*)(void*))dlsym(RTLD_NEXT, "free");
    plain_free(block);
    return;
  }
  size_t* header = header_of(body);
  mmap(header, *header, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
