/*
 * Fibers: linear code on small guarded stacks, switched by Boost.Context (about 12 ns).
 *
 * A fiber is pinned to one scheduler, hence to one thread. Its `state` is the only thing other
 * threads touch, and through it the whole contract of park and wake is kept:
 *
 *     RUNNING --wake--> TOKEN       the wake is kept; the next park returns at once
 *     RUNNING --park--> PARKED
 *     PARKED  --wake--> WOKEN       queued to run; park will return IO_OK
 *     PARKED  --deadline--> QUEUED  queued to run; park will return IO_TIMEOUT
 *     QUEUED  --wake--> WOKEN       a wake that comes before the fiber has run is not lost either
 *     any     --end---> DEAD        a late wake finds this, or the next life of the struct:
 * spurious
 *
 * Whoever moves a fiber out of PARKED puts it into the ready list or the inbox, so it is queued
 * once.
 */
#include "runtime/world.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "runtime/stack.h"

enum fiber_state { DEAD = 0, RUNNING, TOKEN, PARKED, QUEUED, WOKEN };

struct fiber {
    int state;      /* atomic */
    bool cancelled; /* atomic */
    bool masked, started, ended;
    uint8_t idle; /* looks of the trimmer since it parked; see scheduler_trim_stacks */
    struct loop *loop;
    const char *name;
    fiber_main *main;
    void *argument;
    void *context;
    struct fiber *next; /* in the ready list, the inbox or the pool */
    struct fiber *live_next, *live_previous;
    uint64_t deadline_us; /* of the present park */
    uint32_t timer_slot;  /* 1 + index in the heap; 0: none */
    struct stack stack;
    void *fake_stack, *sanitizer_fiber;
};

static __thread struct scheduler *thread_scheduler;

/* ------------------------------------------------------------------ the pool of structs */

enum { FIBER_CHUNK = 64 };
struct fiber_chunk {
    struct fiber_chunk *next;
    struct fiber fibers[FIBER_CHUNK];
};

static struct {
    int lock;
    uint32_t live; /* atomic */
    struct fiber *free;
    struct fiber_chunk *chunks; /* never freed: a late wake may still look at a struct */
} pool;

static void spin_lock(int *lock)
{
    for (unsigned spins = 0; __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE); spins++)
        if (spins > 100)
            sched_yield();
}

static void spin_unlock(int *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

static bool pool_grow(void)
{
    struct fiber_chunk *chunk = calloc(1, sizeof *chunk);

    if (!chunk)
        return false;
    chunk->next = pool.chunks;
    pool.chunks = chunk;
    for (size_t i = FIBER_CHUNK; i-- > 0;) {
        chunk->fibers[i].next = pool.free;
        pool.free = &chunk->fibers[i];
    }
    return true;
}

static struct fiber *pool_take(void)
{
    struct fiber *fiber = NULL;

    spin_lock(&pool.lock);
    if (pool.live < FIBER_LIMIT && (pool.free || pool_grow())) {
        fiber = pool.free;
        pool.free = fiber->next;
        __atomic_fetch_add(&pool.live, 1, __ATOMIC_RELAXED);
    }
    spin_unlock(&pool.lock);
    return fiber;
}

static void pool_give(struct fiber *fiber)
{
    spin_lock(&pool.lock);
    fiber->next = pool.free;
    pool.free = fiber;
    __atomic_fetch_sub(&pool.live, 1, __ATOMIC_RELEASE);
    spin_unlock(&pool.lock);
}

uint32_t fiber_count(void)
{
    return __atomic_load_n(&pool.live, __ATOMIC_ACQUIRE);
}

/* ------------------------------------------------------------------ timers: a heap of deadlines */

/*
 * A park costs nothing here as long as the fiber's entry is not later than its deadline: the entry
 * stays behind when the fiber wakes and is moved to its true place only when it reaches the top.
 */
static bool timer_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

static void timer_put(struct scheduler *scheduler, uint32_t index, struct timer_entry entry)
{
    scheduler->timers[index] = entry;
    entry.fiber->timer_slot = index + 1;
}

static void timer_up(struct scheduler *scheduler, uint32_t index, struct timer_entry entry)
{
    while (index > 0 && timer_before(&entry, &scheduler->timers[(index - 1) / 2])) {
        timer_put(scheduler, index, scheduler->timers[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    timer_put(scheduler, index, entry);
}

static void timer_down(struct scheduler *scheduler, uint32_t index, struct timer_entry entry)
{
    const struct timer_entry *timers = scheduler->timers;

    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= scheduler->timer_count)
            break;
        if (child + 1 < scheduler->timer_count && timer_before(&timers[child + 1], &timers[child]))
            child++;
        if (!timer_before(&timers[child], &entry))
            break;
        timer_put(scheduler, index, timers[child]);
        index = child;
    }
    timer_put(scheduler, index, entry);
}

static void timer_remove(struct scheduler *scheduler, struct fiber *fiber)
{
    if (fiber->timer_slot == 0)
        return;
    const uint32_t index = fiber->timer_slot - 1;
    const struct timer_entry last = scheduler->timers[--scheduler->timer_count];

    fiber->timer_slot = 0;
    if (last.fiber == fiber)
        return;
    if (index > 0 && timer_before(&last, &scheduler->timers[(index - 1) / 2]))
        timer_up(scheduler, index, last);
    else
        timer_down(scheduler, index, last);
}

/* There is room for every live fiber, so that arming cannot fail. */
static void timer_reserve(struct scheduler *scheduler)
{
    if (scheduler->live_count <= scheduler->timer_room)
        return;
    const uint32_t room = scheduler->timer_room ? 2 * scheduler->timer_room : 64;
    struct timer_entry *timers = realloc(scheduler->timers, room * sizeof *timers);

    INVARIANT(timers != NULL);
    scheduler->timers = timers;
    scheduler->timer_room = room;
}

static void timer_arm(struct scheduler *scheduler, struct fiber *fiber, uint64_t deadline_us)
{
    const struct timer_entry entry = {deadline_us, ++scheduler->timer_order, fiber};

    fiber->deadline_us = deadline_us;
    if (deadline_us == DEADLINE_NEVER)
        return;
    if (fiber->timer_slot == 0)
        timer_up(scheduler, scheduler->timer_count++, entry);
    else if (deadline_us < scheduler->timers[fiber->timer_slot - 1].at_us)
        timer_up(scheduler, fiber->timer_slot - 1, entry);
}

/* Moves entries that were left behind to their true place until the top one is true. */
static void timer_settle(struct scheduler *scheduler, uint64_t until_us)
{
    while (scheduler->timer_count > 0 && scheduler->timers[0].at_us <= until_us) {
        struct timer_entry top = scheduler->timers[0];

        if (top.fiber->deadline_us == top.at_us)
            return;
        if (top.fiber->deadline_us == DEADLINE_NEVER) {
            timer_remove(scheduler, top.fiber);
        } else {
            top.at_us = top.fiber->deadline_us;
            timer_down(scheduler, 0, top);
        }
    }
}

uint64_t scheduler_wake_hint(const struct scheduler *scheduler)
{
    return scheduler->timer_count ? scheduler->timers[0].at_us : DEADLINE_NEVER;
}

uint64_t scheduler_next_deadline(struct scheduler *scheduler)
{
    timer_settle(scheduler, DEADLINE_NEVER);
    return scheduler_wake_hint(scheduler);
}

/* ------------------------------------------------------------------ the ready list and the inbox
 */

static void ready_push(struct scheduler *scheduler, struct fiber *fiber)
{
    fiber->next = NULL;
    if (scheduler->ready_last)
        scheduler->ready_last->next = fiber;
    else
        scheduler->ready_first = fiber;
    scheduler->ready_last = fiber;
    scheduler->ready_count++;
}

/* The fiber is in state QUEUED or WOKEN, so nobody else queues it. */
static void make_ready(struct fiber *fiber)
{
    struct scheduler *scheduler = fiber->loop->scheduler;

    if (scheduler == thread_scheduler) {
        ready_push(scheduler, fiber);
        return;
    }
    struct fiber *head = __atomic_load_n(&scheduler->inbox, __ATOMIC_RELAXED);
    do
        fiber->next = head;
    while (!__atomic_compare_exchange_n(&scheduler->inbox, &head, fiber, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED));
    if (!head)
        world_scheduler_wake(scheduler);
}

static void live_add(struct scheduler *scheduler, struct fiber *fiber)
{
    fiber->live_previous = NULL;
    fiber->live_next = scheduler->live;
    if (scheduler->live)
        scheduler->live->live_previous = fiber;
    scheduler->live = fiber;
    scheduler->live_count++;
    fiber->started = true;
    timer_reserve(scheduler);
    if (scheduler->stopping)
        fiber_cancel(fiber);
}

const struct fiber *scheduler_live(const struct scheduler *scheduler, const struct fiber *before)
{
    return before ? before->live_next : scheduler->live;
}

static void live_remove(struct scheduler *scheduler, struct fiber *fiber)
{
    if (fiber->live_previous)
        fiber->live_previous->live_next = fiber->live_next;
    else
        scheduler->live = fiber->live_next;
    if (fiber->live_next)
        fiber->live_next->live_previous = fiber->live_previous;
    scheduler->live_count--;
}

void scheduler_take_inbox(struct scheduler *scheduler)
{
    if (!__atomic_load_n(&scheduler->inbox, __ATOMIC_RELAXED))
        return;
    struct fiber *taken = __atomic_exchange_n(&scheduler->inbox, NULL, __ATOMIC_ACQUIRE);
    struct fiber *in_order = NULL;

    while (taken) {
        struct fiber *next = taken->next;
        taken->next = in_order;
        in_order = taken;
        taken = next;
    }
    while (in_order) {
        struct fiber *next = in_order->next;
        ready_push(scheduler, in_order);
        in_order = next;
    }
}

bool scheduler_has_ready(const struct scheduler *scheduler)
{
    return scheduler->ready_first || __atomic_load_n(&scheduler->inbox, __ATOMIC_SEQ_CST);
}

struct fiber *scheduler_next(const struct fiber *fiber)
{
    return fiber->next;
}

void scheduler_take(struct scheduler *scheduler, struct fiber *fiber)
{
    struct fiber *before = NULL;

    if (scheduler->ready_first != fiber)
        for (before = scheduler->ready_first; before->next != fiber;)
            before = before->next;
    if (before)
        before->next = fiber->next;
    else
        scheduler->ready_first = fiber->next;
    if (scheduler->ready_last == fiber)
        scheduler->ready_last = before;
    scheduler->ready_count--;
}

/* ------------------------------------------------------------------ switching */

static void switch_out(struct fiber *fiber)
{
    struct scheduler *scheduler = fiber->loop->scheduler;

    stack_leave(fiber->ended ? NULL : &fiber->fake_stack, scheduler->stack_bottom,
                scheduler->stack_size, scheduler->sanitizer_fiber);
    scheduler->context = jump_fcontext(scheduler->context, NULL).from;
    stack_enter(fiber->fake_stack, &scheduler->stack_bottom, &scheduler->stack_size);
}

static void fiber_entry(struct context_transfer transfer)
{
    struct fiber *fiber = transfer.data;
    struct scheduler *scheduler = fiber->loop->scheduler;

    scheduler->context = transfer.from;
    stack_enter(NULL, &scheduler->stack_bottom, &scheduler->stack_size);
    fiber->main(fiber->argument);
    fiber->ended = true;
    switch_out(fiber);
    INVARIANT(!fiber->ended); /* nobody resumes it */
}

static void fiber_bury(struct scheduler *scheduler, struct fiber *fiber)
{
    timer_remove(scheduler, fiber);
    live_remove(scheduler, fiber);
    stack_fiber_destroy(fiber->sanitizer_fiber);
    stack_give(&fiber->stack);
    __atomic_store_n(&fiber->state, DEAD, __ATOMIC_RELEASE);
    pool_give(fiber);
}

void scheduler_resume(struct scheduler *scheduler, struct fiber *fiber)
{
    if (!fiber->started) {
        live_add(scheduler, fiber);
        /* A wake that came before the first step is the first token. */
        const int former = __atomic_exchange_n(&fiber->state, RUNNING, __ATOMIC_ACQ_REL);
        if (former == WOKEN)
            fiber_wake(fiber);
    }
    scheduler->current = fiber;
    stack_leave(&scheduler->fake_stack, fiber->stack.low, fiber->stack.size,
                fiber->sanitizer_fiber);
    fiber->context = jump_fcontext(fiber->context, fiber).from;
    stack_enter(scheduler->fake_stack, NULL, NULL);
    scheduler->current = NULL;
    if (fiber->ended)
        fiber_bury(scheduler, fiber);
}

void scheduler_run_ready(struct scheduler *scheduler)
{
    scheduler_take_inbox(scheduler);
    for (uint32_t left = scheduler->ready_count; left > 0; left--) {
        struct fiber *fiber = scheduler->ready_first;

        scheduler_take(scheduler, fiber);
        scheduler_resume(scheduler, fiber);
    }
}

void scheduler_attach(struct scheduler *scheduler)
{
    thread_scheduler = scheduler;
    if (scheduler)
        scheduler->sanitizer_fiber = stack_fiber_of_thread();
}

struct scheduler *scheduler_of_thread(void)
{
    return thread_scheduler;
}

void scheduler_expire(struct scheduler *scheduler, uint64_t now_us)
{
    for (;;) {
        timer_settle(scheduler, now_us);
        if (scheduler->timer_count == 0 || scheduler->timers[0].at_us > now_us)
            return;
        struct fiber *fiber = scheduler->timers[0].fiber;
        int parked = PARKED;

        timer_remove(scheduler, fiber);
        fiber->deadline_us = DEADLINE_NEVER;
        if (__atomic_compare_exchange_n(&fiber->state, &parked, QUEUED, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            ready_push(scheduler, fiber);
    }
}

void scheduler_stop(struct scheduler *scheduler)
{
    scheduler->stopping = true;
    for (struct fiber *fiber = scheduler->live; fiber; fiber = fiber->live_next)
        fiber_cancel(fiber);
}

void scheduler_abandon(struct scheduler *scheduler)
{
    scheduler_take_inbox(scheduler);
    while (scheduler->ready_first) {
        struct fiber *fiber = scheduler->ready_first;

        scheduler_take(scheduler, fiber);
        if (!fiber->started)
            live_add(scheduler, fiber);
    }
    while (scheduler->live)
        fiber_bury(scheduler, scheduler->live);
}

void scheduler_destroy(struct scheduler *scheduler)
{
    free(scheduler->timers);
    *scheduler = (struct scheduler){0};
}

enum { IDLE_TRIMMED = 2 };

bool scheduler_trim_stacks(struct scheduler *scheduler)
{
    bool more = false;

    for (struct fiber *fiber = scheduler->live; fiber; fiber = fiber->live_next) {
        if (fiber->idle == IDLE_TRIMMED || fiber == scheduler->current)
            continue;
        if (++fiber->idle == IDLE_TRIMMED)
            stack_trim(&fiber->stack, fiber->context);
        else
            more = true;
    }
    return more;
}

/* ------------------------------------------------------------------ the life of a fiber */

static struct fiber *start(struct loop *loop, const char *name, size_t stack_size)
{
    struct stack stack;
    struct fiber *fiber = pool_take();

    if (!fiber)
        return NULL;
    if (!stack_take(&stack, stack_size)) {
        pool_give(fiber);
        return NULL;
    }
    /* A late wake may read the state at any moment, so it alone is never simply overwritten. */
    fiber->cancelled = fiber->masked = fiber->started = fiber->ended = false;
    fiber->idle = 0;
    fiber->loop = loop;
    fiber->name = name;
    fiber->deadline_us = DEADLINE_NEVER;
    fiber->timer_slot = 0;
    fiber->stack = stack;
    fiber->fake_stack = NULL;
    fiber->sanitizer_fiber = stack_fiber_create(name);
    fiber->context = make_fcontext(stack.low + stack.size, stack.size, fiber_entry);
    return fiber;
}

static struct fiber *launch(struct fiber *fiber, fiber_main *main, void *argument)
{
    if (!fiber)
        return NULL;
    fiber->main = main;
    fiber->argument = argument;
    __atomic_store_n(&fiber->state, QUEUED, __ATOMIC_RELEASE);
    make_ready(fiber);
    return fiber;
}

struct fiber *fiber_start_on(struct loop *loop, const char *name, fiber_main *main, void *argument)
{
    const size_t size = loop->kind == LOOP_BLOCKING ? FIBER_STACK_BLOCKING : FIBER_STACK_SESSION;

    return launch(start(loop, name, size), main, argument);
}

struct fiber *fiber_start_sized(struct loop *loop, const char *name, fiber_main *main,
                                void *argument)
{
    return launch(start(loop, name, FIBER_STACK_MAIN), main, argument);
}

struct fiber *fiber_start(const char *name, fiber_main *main, void *argument)
{
    return fiber_start_on(loop_self(), name, main, argument);
}

struct fiber *fiber_self(void)
{
    return thread_scheduler ? thread_scheduler->current : NULL;
}

const char *fiber_name(const struct fiber *fiber)
{
    return fiber->name;
}

struct loop *loop_self(void)
{
    const struct fiber *fiber = fiber_self();

    return fiber ? fiber->loop : NULL;
}

/* ------------------------------------------------------------------ park and wake */

static bool cancel_pending(const struct fiber *fiber)
{
    return !fiber->masked && __atomic_load_n(&fiber->cancelled, __ATOMIC_ACQUIRE);
}

enum io_status fiber_park(uint64_t deadline_us)
{
    struct fiber *fiber = fiber_self();
    int running = RUNNING;

    if (cancel_pending(fiber))
        return IO_CANCELLED;
    if (__atomic_compare_exchange_n(&fiber->state, &running, PARKED, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        timer_arm(fiber->loop->scheduler, fiber, deadline_us);
        switch_out(fiber);
        fiber->deadline_us = DEADLINE_NEVER;
        fiber->idle = 0;
    }
    const int former = __atomic_exchange_n(&fiber->state, RUNNING, __ATOMIC_ACQ_REL);
    if (cancel_pending(fiber))
        return IO_CANCELLED;
    return former == QUEUED ? IO_TIMEOUT : IO_OK;
}

void fiber_wake(struct fiber *fiber)
{
    int state = __atomic_load_n(&fiber->state, __ATOMIC_RELAXED);

    for (;;) {
        int next = state;

        switch ((enum fiber_state)state) {
        case DEAD:
            return;
        case RUNNING:
        case TOKEN:
            next = TOKEN;
            break;
        case PARKED:
        case QUEUED:
        case WOKEN:
            next = WOKEN;
            break;
        }
        /* Written even when unchanged: what the waker did before must be seen by the woken. */
        if (__atomic_compare_exchange_n(&fiber->state, &state, next, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            break;
    }
    if (state == PARKED)
        make_ready(fiber);
}

void fiber_cancel(struct fiber *fiber)
{
    __atomic_store_n(&fiber->cancelled, true, __ATOMIC_RELEASE);
    fiber_wake(fiber);
}

bool fiber_cancelled(void)
{
    return cancel_pending(fiber_self());
}

bool fiber_mask_cancel(bool masked)
{
    struct fiber *fiber = fiber_self();
    const bool former = fiber->masked;

    fiber->masked = masked;
    return former;
}

enum io_status fiber_sleep_until(uint64_t deadline_us)
{
    for (;;) {
        const enum io_status status = fiber_park(deadline_us);

        if (status == IO_TIMEOUT)
            return IO_OK;
        if (status != IO_OK)
            return status;
    }
}

void fiber_yield(void)
{
    struct fiber *fiber = fiber_self();
    int running = RUNNING;

    if (!__atomic_compare_exchange_n(&fiber->state, &running, QUEUED, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_RELAXED))
        __atomic_store_n(&fiber->state, WOKEN, __ATOMIC_RELEASE); /* the token is kept */
    ready_push(fiber->loop->scheduler, fiber);
    switch_out(fiber);
    if (__atomic_exchange_n(&fiber->state, RUNNING, __ATOMIC_ACQ_REL) == WOKEN)
        fiber_wake(fiber);
}

/* ------------------------------------------------------------------ places to wait */

/* A ring: the first one's `previous` is the last. Woken waiters stay until they leave. */
static void ring_add(struct waitlist *list, struct waiter *waiter)
{
    if (!list->first) {
        list->first = waiter->next = waiter->previous = waiter;
        return;
    }
    waiter->next = list->first;
    waiter->previous = list->first->previous;
    waiter->previous->next = waiter;
    list->first->previous = waiter;
}

void waitlist_join(struct waitlist *list, struct waiter *waiter)
{
    waiter->fiber = fiber_self();
    waiter->chosen = false;
    spin_lock(&list->lock);
    ring_add(list, waiter);
    spin_unlock(&list->lock);
}

/* The chosen one goes to the end, so that two calls wake two fibers though neither has run yet. */
static void ring_wake_first(struct waitlist *list)
{
    if (!list->first)
        return;
    list->first->chosen = true;
    fiber_wake(list->first->fiber);
    list->first = list->first->next;
}

/*
 * A waiter may be chosen when its condition already holds, or as its time is up; then somebody else
 * should have been woken. So the chosen one wakes the next as it leaves, until one finds nothing.
 */
void waitlist_leave(struct waitlist *list, struct waiter *waiter)
{
    spin_lock(&list->lock);
    waiter->previous->next = waiter->next;
    waiter->next->previous = waiter->previous;
    if (list->first == waiter)
        list->first = waiter->next == waiter ? NULL : waiter->next;
    if (waiter->chosen)
        ring_wake_first(list);
    spin_unlock(&list->lock);
}

void waitlist_wake_all(struct waitlist *list)
{
    spin_lock(&list->lock);
    struct waiter *waiter = list->first;
    if (waiter)
        do {
            fiber_wake(waiter->fiber);
            waiter = waiter->next;
        } while (waiter != list->first);
    spin_unlock(&list->lock);
}

void waitlist_wake_one(struct waitlist *list)
{
    spin_lock(&list->lock);
    ring_wake_first(list);
    spin_unlock(&list->lock);
}
