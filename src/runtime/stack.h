/*
 * Stacks of fibers, Boost.Context's C ABI, and what the sanitizers want to know about both. Private
 * to this room. Stacks may be taken and given from any thread.
 */
#ifndef RUNTIME_STACK_H
#define RUNTIME_STACK_H

#include "base/base.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

struct stack {
    uint8_t *low; /* the lowest usable byte; below it lies the guard page */
    size_t size;
};

MUST_USE bool stack_take(struct stack *stack, size_t size);
void stack_give(struct stack *stack);
/* Gives the pages below `context` (the saved stack pointer) back to the system. */
void stack_trim(const struct stack *stack, const void *context);

/* boost/context/detail/fcontext.hpp is C++; its ABI is this. */
struct context_transfer {
    void *from;
    void *data;
};
void *make_fcontext(void *top, size_t size, void (*entry)(struct context_transfer));
struct context_transfer jump_fcontext(void *to, void *data);

/* Around every jump: leave before it (fake NULL: this stack ends), enter after it. Inlined, because
 * the thread sanitizer keeps a shadow of the calls of each fiber. */
static inline __attribute__((always_inline)) void stack_leave(void **fake, const void *low,
                                                              size_t size, void *sanitizer_fiber)
{
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(fake, low, size);
#endif
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(sanitizer_fiber, 0);
#endif
    (void)fake, (void)low, (void)size, (void)sanitizer_fiber;
}

static inline __attribute__((always_inline)) void stack_enter(void *fake, const void **low,
                                                              size_t *size)
{
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(fake, low, size);
#endif
    (void)fake, (void)low, (void)size;
}

void *stack_fiber_create(const char *name);
void stack_fiber_destroy(void *sanitizer_fiber);
void *stack_fiber_of_thread(void);

#endif
