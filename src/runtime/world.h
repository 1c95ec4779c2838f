/*
 * What a world (kernel or sim) offers to the runtime and what fiber.c and io.c offer to a world. No
 * other room includes it.
 *
 * fiber.c and io.c implement of runtime.h: io_*, deadline_in, random_u64, fiber_*, waitlist_*,
 * loop_self, stream_read/write/wait_readable/close/reset (they dispatch through stream_ops),
 * stream_close_ptr, file_close_ptr.
 *
 * A world implements the rest of runtime.h (clock_now_us, clock_wall_us, random_fill, loop_start,
 * loop_session_count, loop_session, work_run, stream_dial, listener_*, datagram_*, descriptor_wait,
 * file_*, disk_*, process_wait_signal, world_run), and below: world_scheduler_wake.
 *
 * A turn of a world's loop is
 *     scheduler_run_ready(s);                  fibers run, they park again
 *     wait for events until scheduler_next_deadline(s), or not at all while something is ready;
 *     for each event: set what the fiber looks at, fiber_wake(fiber);
 *     scheduler_expire(s, clock_now_us());
 * Time is only ever given in: fiber.c never reads a clock.
 */
#ifndef RUNTIME_WORLD_H
#define RUNTIME_WORLD_H

#include "runtime/runtime.h"

struct timer_entry {
    uint64_t at_us;
    uint64_t order; /* of arming: equal deadlines expire in the order in which they were armed */
    struct fiber *fiber;
};

/* One a thread. Everything but `inbox` belongs to that thread. Zero-initialised is ready. */
struct scheduler {
    struct fiber *ready_first, *ready_last;
    struct fiber *live; /* all fibers that run here */
    struct fiber *current;
    struct fiber *inbox; /* atomic stack of fibers that other threads made ready */
    struct timer_entry *timers;
    uint32_t timer_count, timer_room;
    uint32_t live_count, ready_count;
    uint64_t timer_order;
    bool stopping; /* every fiber that runs here is cancelled, also those yet to come */
    void *context; /* of the scheduler while a fiber runs */
    void *fake_stack, *sanitizer_fiber;
    const void *stack_bottom;
    size_t stack_size;
};

/* The kernel has a scheduler in each loop; sim lets all its loops point to one. A world puts this
 * first in its own struct. */
struct loop {
    const char *name;
    enum loop_kind kind;
    struct scheduler *scheduler;
};

/* ---------------------------------------------------------------- the world gives */

/* Another thread put something into the inbox: end the wait of that loop soon. In sim never called.
 */
void world_scheduler_wake(struct scheduler *scheduler);

/* ---------------------------------------------------------------- fiber.c gives */

/* Says that this thread runs that scheduler (NULL: none any more). */
void scheduler_attach(struct scheduler *scheduler);
struct scheduler *scheduler_of_thread(void);
/* Takes the inbox, then runs each fiber that was ready at that moment once, in order. */
void scheduler_run_ready(struct scheduler *scheduler);
/* The same in small steps, for a world that chooses the order by its seed: the list starts at
 * ready_first; take removes `fiber` from it, resume runs it until it parks or ends. */
void scheduler_take_inbox(struct scheduler *scheduler);
struct fiber *scheduler_next(const struct fiber *fiber); /* the one behind it in the ready list */
void scheduler_take(struct scheduler *scheduler, struct fiber *fiber);
void scheduler_resume(struct scheduler *scheduler, struct fiber *fiber);
bool scheduler_has_ready(const struct scheduler *scheduler); /* looks into the inbox too */
/* The earliest deadline of a parked fiber, or DEADLINE_NEVER. */
uint64_t scheduler_next_deadline(struct scheduler *scheduler);
/* Cheaper: never later than that, perhaps earlier (a deadline that was left behind). */
uint64_t scheduler_wake_hint(const struct scheduler *scheduler);
/* Makes ready every parked fiber whose deadline is at or before now. */
void scheduler_expire(struct scheduler *scheduler, uint64_t now_us);
/* Cancels all fibers of the scheduler, and each that will start later. Own thread only. */
void scheduler_stop(struct scheduler *scheduler);
/* Ends every fiber without running it again, as the end of a process does: stacks and structs come
 * back, what the fibers had allocated does not. For a simulated crash. */
void scheduler_abandon(struct scheduler *scheduler);
/* All fibers that have not ended, in no order: the first (NULL: of those there are), the next. */
const struct fiber *scheduler_live(const struct scheduler *scheduler, const struct fiber *before);
/* Frees the timers; the scheduler has no live fibers, or they are given up (their stacks leak). */
void scheduler_destroy(struct scheduler *scheduler);
/* Gives back the dirty stack pages below the stack pointer of fibers that stayed parked since the
 * last call: an idle connection then costs one page. True when another call would find more. Own
 * thread only. */
bool scheduler_trim_stacks(struct scheduler *scheduler);

/* Stack sizes. SQLite and the like run on blocking loops and below main. */
#define FIBER_STACK_SESSION (64 * KIB)
#define FIBER_STACK_BLOCKING (256 * KIB)
#define FIBER_STACK_MAIN (256 * KIB)
#define FIBER_LIMIT 24000 /* two mappings a stack, of the 65,530 that Linux allows by default */
#define FIBER_STACK_CACHE 128

MUST_USE struct fiber *fiber_start_sized(struct loop *loop, const char *name, fiber_main *main,
                                         void *argument); /* with FIBER_STACK_MAIN */

#endif
