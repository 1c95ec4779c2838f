/* Checks inside fibers: cmocka's own asserts jump, which must not cross stacks. */
#ifndef TESTS_WORLD_CHECK_H
#define TESTS_WORLD_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/runtime.h"

static int checks_failed; /* atomic */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition);  \
            __atomic_fetch_add(&checks_failed, 1, __ATOMIC_RELAXED);                               \
        }                                                                                          \
    } while (0)

/* Far enough never to be reached by a test that works. */
#define SOON_ENOUGH deadline_in(30 * US_PER_S)

/* Runs `main` in a world of so many loops, and expects nothing to be left behind. */
static inline void in_world(int (*main)(void *argument), void *argument, unsigned loops)
{
    checks_failed = 0;
    assert_int_equal(world_run(main, argument, loops), 0);
    assert_int_equal(fiber_count(), 0);
    assert_int_equal(checks_failed, 0);
}

/* Counts down from several loops. */
struct gate {
    int left, inside; /* atomic */
    struct waitlist waiting;
};

static inline void gate_pass(struct gate *gate)
{
    __atomic_fetch_add(&gate->inside, 1, __ATOMIC_ACQ_REL);
    __atomic_fetch_sub(&gate->left, 1, __ATOMIC_ACQ_REL);
    waitlist_wake_all(&gate->waiting);
    __atomic_fetch_sub(&gate->inside, 1, __ATOMIC_ACQ_REL);
}

static inline bool gate_wait(struct gate *gate, int until)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    waitlist_join(&gate->waiting, &waiter);
    while (__atomic_load_n(&gate->left, __ATOMIC_ACQUIRE) > until && status == IO_OK)
        status = fiber_park(SOON_ENOUGH);
    waitlist_leave(&gate->waiting, &waiter);
    /* The gate lies on our stack: who passes it from another loop has to be out before we go on. */
    while (__atomic_load_n(&gate->inside, __ATOMIC_ACQUIRE) > 0)
        fiber_yield();
    return status == IO_OK;
}

#endif
