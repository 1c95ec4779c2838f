/* Guarded stacks, cached up to a cap, and the sanitizers' view of switches. */
#include "runtime/stack.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/world.h"

#if defined(WITH_ASAN) || defined(WITH_TSAN)
enum { STACK_FACTOR = 4 }; /* frames are far larger there */
#else
enum { STACK_FACTOR = 1 };
#endif
enum { GUARD_SIZE = 4096 };

/* A free stack keeps its link in its own topmost bytes, which are paged in anyway. */
struct free_stack {
    struct free_stack *next;
    struct stack stack;
};

static struct {
    pthread_mutex_t mutex;
    struct free_stack *session, *large;
    unsigned count;
} cache = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static struct free_stack **cache_list(size_t size)
{
    return size == FIBER_STACK_SESSION * STACK_FACTOR ? &cache.session
           : size == FIBER_STACK_MAIN * STACK_FACTOR  ? &cache.large
                                                      : NULL;
}

static bool cache_take(struct stack *stack, size_t size)
{
    struct free_stack **list = cache_list(size);

    if (!list)
        return false;
    pthread_mutex_lock(&cache.mutex);
    struct free_stack *found = *list;
    if (found) {
        *list = found->next;
        cache.count--;
        *stack = found->stack;
    }
    pthread_mutex_unlock(&cache.mutex);
    return found != NULL;
}

static bool cache_give(const struct stack *stack)
{
    struct free_stack **list = cache_list(stack->size);
    bool kept = false;

    if (!list)
        return false;
    pthread_mutex_lock(&cache.mutex);
    if (cache.count < FIBER_STACK_CACHE) {
        struct free_stack *entry =
            (struct free_stack *)(void *)(stack->low + stack->size - sizeof *entry);
        *entry = (struct free_stack){*list, *stack};
        *list = entry;
        cache.count++;
        kept = true;
    }
    pthread_mutex_unlock(&cache.mutex);
    return kept;
}

bool stack_take(struct stack *stack, size_t size)
{
    size *= STACK_FACTOR;
    if (cache_take(stack, size))
        return true;
    uint8_t *memory = mmap(NULL, size + GUARD_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    if (mprotect(memory, GUARD_SIZE, PROT_NONE) != 0) {
        munmap(memory, size + GUARD_SIZE);
        return false;
    }
    *stack = (struct stack){memory + GUARD_SIZE, size};
    return true;
}

void stack_give(struct stack *stack)
{
#ifdef WITH_ASAN
    __asan_unpoison_memory_region(stack->low, stack->size);
#endif
    if (!cache_give(stack))
        munmap(stack->low - GUARD_SIZE, stack->size + GUARD_SIZE);
    *stack = (struct stack){0};
}

void stack_trim(const struct stack *stack, const void *context)
{
    const uintptr_t page = GUARD_SIZE, low = (uintptr_t)stack->low;
    const uintptr_t used = (uintptr_t)context & ~(page - 1);

    if (used > low)
        madvise(stack->low, used - low, MADV_DONTNEED);
}

void *stack_fiber_create(const char *name)
{
#ifdef WITH_TSAN
    void *fiber = __tsan_create_fiber(0);
    __tsan_set_fiber_name(fiber, name);
    return fiber;
#else
    (void)name;
    return NULL;
#endif
}

void stack_fiber_destroy(void *sanitizer_fiber)
{
#ifdef WITH_TSAN
    __tsan_destroy_fiber(sanitizer_fiber);
#endif
    (void)sanitizer_fiber;
}

void *stack_fiber_of_thread(void)
{
#ifdef WITH_TSAN
    return __tsan_get_current_fiber();
#else
    return NULL;
#endif
}
