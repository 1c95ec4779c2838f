/*
 * The loop of the seeded world: which ready fiber runs next is drawn, each step costs a little
 * virtual time, and when none is ready time jumps to the next event or deadline. All loops are
 * names over one scheduler.
 *
 * After a crash no fiber runs again: their stacks are given back unrun, and what they had allocated
 * is lost to this process, as a program that forks for its seeds does not mind.
 */
#include "sim/inside.h"

#include <errno.h>
#include <string.h>

struct sim_world sim_world;

enum { LOOPS_MOST = 64, SIGNALS_MOST = 16, WALL_START_S = 1795478400 };

static struct {
    struct scheduler scheduler;
    struct loop loops[LOOPS_MOST];
    unsigned loop_count, session_count;
    char session_names[LOOPS_MOST][24];
    int (*main)(void *argument);
    void *argument;
    int exit_code;
    bool main_ended;
    int signals[SIGNALS_MOST];
    unsigned signal_count;
    struct waitlist signal_waiters;
} one;

/* ------------------------------------------------------------------ memory and the end of a fiber
 */

void *sim_new(size_t size)
{
    void *memory = calloc(1, size);

    INVARIANT(memory != NULL);
    return memory;
}

void *sim_grow(void *memory, size_t count, size_t size)
{
    void *grown = reallocarray(memory, count, size);

    INVARIANT(grown != NULL);
    return grown;
}

void sim_die(void)
{
    INVARIANT(fiber_self() != NULL);
    fiber_mask_cancel(true);
    for (;;)
        fiber_park(DEADLINE_NEVER);
}

void sim_die_if_crashed(void)
{
    if (sim_world.crashed && fiber_self())
        sim_die();
}

void sim_pause(uint64_t duration_us)
{
    const bool masked = fiber_mask_cancel(true);

    INVARIANT(fiber_sleep_until(deadline_in(duration_us)) == IO_OK);
    fiber_mask_cancel(masked);
    sim_die_if_crashed();
}

/* ------------------------------------------------------------------ clocks */

uint64_t clock_now_us(void)
{
    return sim_world.now_us;
}

int64_t clock_wall_us(void)
{
    return (int64_t)sim_world.now_us + sim_world.wall_offset_us;
}

void sim_wall_jump(int64_t by_us)
{
    trace_add("wall jump", "", (uint64_t)by_us);
    sim_world.wall_offset_us += by_us;
}

void sim_limit_time(uint64_t duration_us)
{
    sim_world.limit_us = deadline_in(duration_us);
}

void sim_at(uint64_t at_us, void (*run)(void *argument), void *argument)
{
    events_add(at_us, run, argument);
}

/* ------------------------------------------------------------------ loops */

void world_scheduler_wake(struct scheduler *scheduler)
{
    INVARIANT(scheduler == NULL); /* there is no other thread */
}

static struct loop *loop_add(const char *name, enum loop_kind kind)
{
    if (one.loop_count == LOOPS_MOST)
        return NULL;
    struct loop *loop = &one.loops[one.loop_count++];

    *loop = (struct loop){.name = name, .kind = kind, .scheduler = &one.scheduler};
    return loop;
}

struct loop *loop_start(const char *name, enum loop_kind kind)
{
    return loop_add(name, kind);
}

unsigned loop_session_count(void)
{
    return one.session_count;
}

struct loop *loop_session(unsigned index)
{
    INVARIANT(index < one.session_count);
    return &one.loops[index];
}

void sim_session_loops(unsigned count)
{
    sim_world.session_loops = count;
}

static void open_loops(unsigned session_loops)
{
    const unsigned wanted = session_loops ? session_loops : sim_world.session_loops;

    one.loop_count = 0;
    one.session_count = MIN_OF(wanted, (unsigned)LOOPS_MOST / 2);
    for (unsigned i = 0; i < one.session_count; i++) {
        (void)snprintf(one.session_names[i], sizeof one.session_names[i], "sessions-%u", i);
        INVARIANT(loop_add(one.session_names[i], LOOP_SESSIONS) != NULL);
    }
}

/* ------------------------------------------------------------------ the worker pool */

struct work {
    void (*run)(void *argument);
    void *argument;
    struct fiber *waiting;
    uint64_t owed_us;
    bool done;
};

/* On a stack of its own, as in the kernel's pool: SQLite would not fit into a session's. */
static void work_main(void *argument)
{
    struct work *work = argument;
    const uint64_t owed_before = sim_world.debt_us;

    work->run(work->argument);
    work->owed_us = sim_world.debt_us - owed_before;
    sim_world.debt_us = owed_before;
    work->done = true;
    fiber_wake(work->waiting);
}

/* The work itself takes no time; what it owes is slept off here, while others run. */
enum io_status work_run(void (*work)(void *argument), void *argument)
{
    struct work job = {.run = work, .argument = argument, .waiting = fiber_self()};

    sim_die_if_crashed();
    if (fiber_cancelled())
        return IO_CANCELLED;
    sim_pause(chance_between(1, 200));
    if (!fiber_start_sized(loop_self(), "work", work_main, &job))
        return IO_FAILED;
    const bool masked = fiber_mask_cancel(true);
    while (!job.done)
        if (fiber_park(DEADLINE_NEVER) != IO_OK)
            break;
    fiber_mask_cancel(masked);
    sim_die_if_crashed();
    INVARIANT(job.done);
    sim_pause(job.owed_us);
    return IO_OK;
}

struct io_result descriptor_wait(int descriptor, bool for_write, uint64_t deadline_us)
{
    INVARIANT(descriptor >= 0 || for_write || deadline_us);
    return io_failed(ENOSYS);
}

void sim_fibers_each(void (*each)(void *argument, const char *name), void *argument)
{
    const struct fiber *fiber = NULL;

    while ((fiber = scheduler_live(&one.scheduler, fiber)) != NULL)
        each(argument, fiber_name(fiber));
}

/* ------------------------------------------------------------------ signals */

void sim_signal(int signal_number)
{
    trace_add("signal", "", (uint64_t)signal_number);
    if (one.signal_count < SIGNALS_MOST)
        one.signals[one.signal_count++] = signal_number;
    waitlist_wake_all(&one.signal_waiters);
}

enum io_status process_wait_signal(int *signal_number, uint64_t deadline_us)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    sim_die_if_crashed();
    waitlist_join(&one.signal_waiters, &waiter);
    while (one.signal_count == 0 && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&one.signal_waiters, &waiter);
    if (one.signal_count == 0)
        return status;
    *signal_number = one.signals[0];
    one.signal_count--;
    memmove(one.signals, one.signals + 1, one.signal_count * sizeof one.signals[0]);
    return IO_OK;
}

bool process_has_descriptor(void)
{
    return true;
}

void signals_close(void)
{
    one.signal_count = 0;
    one.signal_waiters = (struct waitlist){0};
}

/* ------------------------------------------------------------------ the loop */

static void pass_time(uint64_t until_us)
{
    if (until_us > sim_world.now_us)
        sim_world.now_us = until_us;
}

/* Any of the first few that are ready may be next: that is what threads and cores would do. */
static struct fiber *draw_ready(void)
{
    struct scheduler *scheduler = &one.scheduler;
    struct fiber *fiber = scheduler->ready_first;

    for (uint64_t skip = sim_below(MIN_OF(scheduler->ready_count, 16U)); skip > 0; skip--)
        fiber = scheduler_next(fiber);
    scheduler_take(scheduler, fiber);
    return fiber;
}

static void run_ready(void)
{
    scheduler_take_inbox(&one.scheduler);
    for (uint32_t left = one.scheduler.ready_count; left > 0 && !sim_world.crashed; left--) {
        struct fiber *fiber = draw_ready();

        trace_add("run", fiber_name(fiber), 0);
        scheduler_resume(&one.scheduler, fiber);
        pass_time(sim_world.now_us + 1 + sim_world.debt_us);
        sim_world.debt_us = 0;
    }
}

/* One turn. False when nothing will ever happen again. */
static bool turn(void)
{
    run_ready();
    if (sim_world.crashed)
        return true;
    if (!scheduler_has_ready(&one.scheduler)) {
        const uint64_t next_us = MIN_OF(events_next_us(), scheduler_next_deadline(&one.scheduler));

        if (next_us == DEADLINE_NEVER)
            return false;
        pass_time(next_us);
    }
    events_run_due();
    scheduler_expire(&one.scheduler, sim_world.now_us);
    return true;
}

/* Until main has ended; then every fiber is cancelled and has a virtual minute to see to its own.
 */
static int run_world(void)
{
    while (!one.main_ended && !sim_world.crashed) {
        if (!turn() && !one.main_ended)
            return SIM_STUCK;
        if (sim_world.now_us > sim_world.limit_us)
            return SIM_OVERDUE;
    }
    const uint64_t until_us = deadline_in(60 * US_PER_S);
    scheduler_stop(&one.scheduler);
    while (!sim_world.crashed && one.scheduler.live_count > 0 && sim_world.now_us < until_us)
        if (!turn())
            break;
    return sim_world.crashed ? SIM_CRASHED : one.exit_code;
}

static void main_fiber(void *unused)
{
    INVARIANT(unused == NULL);
    one.exit_code = one.main(one.argument);
    one.main_ended = true;
}

static void close_world(void)
{
    sim_world.running = false;
    sim_world.debt_us = 0;
    scheduler_abandon(&one.scheduler);
    scheduler_attach(NULL);
    scheduler_destroy(&one.scheduler);
    events_close();
    network_close();
    peers_close();
    signals_close();
    vfs_close();
    handles_close();
}

int world_run(int (*main)(void *argument), void *argument, unsigned session_loops)
{
    INVARIANT(!sim_world.running);
    sim_world.running = true;
    sim_world.crashed = false;
    one.main = main;
    one.argument = argument;
    one.main_ended = false;
    one.exit_code = 0;
    open_loops(session_loops);
    scheduler_attach(&one.scheduler);
    vfs_open();
    trace_add("world", "begins", 0);
    INVARIANT(fiber_start_sized(&one.loops[0], "main", main_fiber, NULL) != NULL);
    const int exit_code = run_world();
    trace_add("world", "ends", (uint64_t)(int64_t)exit_code);
    close_world();
    return exit_code;
}

void sim_open(uint64_t seed)
{
    sim_close();
    sim_world = (struct sim_world){.seed = seed,
                                   .now_us = US_PER_S,
                                   .wall_offset_us = (int64_t)(WALL_START_S * US_PER_S),
                                   .limit_us = 30 * 24 * 3600 * US_PER_S,
                                   .session_loops = 2,
                                   .sync_us = 100};
    chance_open(seed);
}

void sim_close(void)
{
    INVARIANT(!sim_world.running);
    events_close();
    network_forget();
    zone_forget();
    documents_forget();
    faults_forget();
    sync_forget();
    names_forget();
}

bool sim_crashed(void)
{
    return sim_world.crashed;
}
