/*
 * The loops and the life of the world: threads, turns, wakes, the orderly end.
 *
 * Limits: LOOPS_MAX loops; after main has returned, fibers have STOP_PATIENCE to end; those that
 * have not are counted on standard error and given up (their memory stays, their threads too).
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LOOPS_MAX = 256, EVENTS_A_TURN = 256, RUNS_A_TURN = 16, STREAK_MAX = 64 };
#define STOP_PATIENCE_US (10 * US_PER_S)
#define STOP_LOOK_US (2 * US_PER_MS)
#define TRIM_EVERY_US (1 * US_PER_S)

static struct {
    pthread_mutex_t mutex; /* over the list of loops */
    struct kernel_loop *loops;
    struct kernel_loop *sessions[LOOPS_MAX];
    unsigned session_count, count;
    bool stopping;
} world = {.mutex = PTHREAD_MUTEX_INITIALIZER};

struct kernel_loop *kernel_loop_self(void)
{
    return (struct kernel_loop *)loop_self();
}

/* ------------------------------------------------------------------ one loop */

void world_scheduler_wake(struct scheduler *scheduler)
{
    struct kernel_loop *loop = CONTAINER_OF(scheduler, struct kernel_loop, scheduler);
    const uint64_t one = 1;

    if (!__atomic_exchange_n(&loop->sleeping, 0, __ATOMIC_SEQ_CST))
        return; /* it looks into the inbox before it sleeps */
    while (write(loop->wake, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static void loop_command(struct kernel_loop *loop, enum loop_order order)
{
    __atomic_store_n(&loop->order, (int)order, __ATOMIC_SEQ_CST);
    world_scheduler_wake(&loop->scheduler);
}

void loop_tend_uv(struct kernel_loop *loop)
{
    uv_run(&loop->uv, UV_RUN_NOWAIT);
}

void loop_share(void)
{
    struct kernel_loop *loop = kernel_loop_self();

    if (++loop->streak < STREAK_MAX)
        return;
    loop->streak = 0;
    fiber_yield();
}

static int wait_ms(struct kernel_loop *loop, uint64_t now_us, uint64_t most_us)
{
    uint64_t until_us = scheduler_wake_hint(&loop->scheduler);

    if (loop->dirty)
        until_us = MIN_OF(until_us, loop->trim_at_us);
    if (until_us == DEADLINE_NEVER && most_us == DEADLINE_NEVER)
        return -1;
    const uint64_t wait_us = until_us > now_us ? MIN_OF(until_us - now_us, most_us) : 0;
    return (int)MIN_OF((wait_us + US_PER_MS - 1) / US_PER_MS, UINT64_C(3600000));
}

/* All events of a batch become flags before any fiber runs, and only fibers close descriptors: so
 * no event can belong to a connection that is gone. */
static void loop_poll(struct kernel_loop *loop, int timeout_ms)
{
    struct epoll_event events[EVENTS_A_TURN];
    bool uv_ready = false;
    const int count = epoll_wait(loop->epoll, events, EVENTS_A_TURN, timeout_ms);

    __atomic_store_n(&loop->sleeping, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == &loop->uv)
            uv_ready = true;
        else if (events[i].data.ptr != loop)
            poller_event(events[i].data.ptr, events[i].events);
    }
    if (uv_ready)
        loop_tend_uv(loop);
}

static void loop_trim(struct kernel_loop *loop, uint64_t now_us)
{
    if (!loop->dirty || now_us < loop->trim_at_us)
        return;
    loop->dirty = scheduler_trim_stacks(&loop->scheduler);
    loop->trim_at_us = now_us + TRIM_EVERY_US;
}

static void loop_run_fibers(struct kernel_loop *loop, uint64_t now_us)
{
    for (unsigned i = 0; i < RUNS_A_TURN && scheduler_has_ready(&loop->scheduler); i++) {
        if (!loop->dirty)
            loop->trim_at_us = now_us + TRIM_EVERY_US;
        loop->dirty = true;
        scheduler_run_ready(&loop->scheduler);
    }
}

/* Runs what is ready and sleeps once, at most `most_us`. */
static void loop_turn(struct kernel_loop *loop, uint64_t most_us)
{
    if (__atomic_load_n(&loop->order, __ATOMIC_ACQUIRE) != LOOP_RUN && !loop->cancelled) {
        loop->cancelled = true;
        scheduler_stop(&loop->scheduler);
    }
    const uint64_t now_us = clock_now_us();
    loop_run_fibers(loop, now_us);
    const int timeout_ms = wait_ms(loop, now_us, most_us);

    if (scheduler_has_ready(&loop->scheduler)) {
        loop_poll(loop, 0);
    } else {
        const int order = loop->cancelled ? LOOP_CANCEL : LOOP_RUN;
        __atomic_store_n(&loop->sleeping, 1, __ATOMIC_SEQ_CST);
        const bool news = scheduler_has_ready(&loop->scheduler) ||
                          __atomic_load_n(&loop->order, __ATOMIC_SEQ_CST) != order;
        loop_poll(loop, news ? 0 : timeout_ms);
    }
    const uint64_t then_us = clock_now_us();
    scheduler_expire(&loop->scheduler, then_us);
    loop_trim(loop, then_us);
}

static void ignore_async(uv_async_t *handle UNUSED)
{
}

static bool epoll_add(int epoll, int descriptor, unsigned events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

static void close_if_open(int descriptor)
{
    if (descriptor >= 0)
        close(descriptor);
}

static bool loop_open_uv(struct kernel_loop *loop)
{
    if (uv_loop_init(&loop->uv) != 0)
        return false;
    if (uv_async_init(&loop->uv, &loop->keep, ignore_async) != 0) {
        uv_loop_close(&loop->uv);
        return false;
    }
    loop_tend_uv(loop);
    return true;
}

static void loop_close_uv(struct kernel_loop *loop)
{
    uv_close((uv_handle_t *)&loop->keep, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    INVARIANT(uv_loop_close(&loop->uv) == 0);
}

static void loop_free(struct kernel_loop *loop)
{
    loop_close_uv(loop);
    close_if_open(loop->epoll);
    close_if_open(loop->wake);
    scheduler_destroy(&loop->scheduler);
    free(loop);
}

static struct kernel_loop *loop_new(const char *name, enum loop_kind kind)
{
    struct kernel_loop *loop = calloc(1, sizeof *loop);

    if (!loop)
        return NULL;
    if (!loop_open_uv(loop)) {
        free(loop);
        return NULL;
    }
    loop->base = (struct loop){.name = name, .kind = kind, .scheduler = &loop->scheduler};
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    /* Edge-triggered, the event descriptor need never be read. */
    if (loop->epoll >= 0 && loop->wake >= 0 &&
        epoll_add(loop->epoll, loop->wake, EPOLLIN | EPOLLET, loop) &&
        epoll_add(loop->epoll, uv_backend_fd(&loop->uv), EPOLLIN, &loop->uv))
        return loop;
    loop_free(loop);
    return NULL;
}

static void *loop_thread(void *argument)
{
    struct kernel_loop *loop = argument;
    char name[16];

    snprintf(name, sizeof name, "%s", loop->base.name);
    pthread_setname_np(pthread_self(), name);
    scheduler_attach(&loop->scheduler);
    while (__atomic_load_n(&loop->order, __ATOMIC_ACQUIRE) != LOOP_END)
        loop_turn(loop, DEADLINE_NEVER);
    scheduler_attach(NULL);
    return NULL;
}

static void loop_list(struct kernel_loop *loop)
{
    loop->next = world.loops;
    world.loops = loop;
    world.count++;
}

struct loop *loop_start(const char *name, enum loop_kind kind)
{
    struct loop *started = NULL;

    pthread_mutex_lock(&world.mutex);
    if (world.count < LOOPS_MAX && !world.stopping) {
        struct kernel_loop *loop = loop_new(name, kind);

        if (loop && pthread_create(&loop->thread, NULL, loop_thread, loop) == 0) {
            loop_list(loop);
            started = &loop->base;
        } else if (loop) {
            loop_free(loop);
        }
    }
    pthread_mutex_unlock(&world.mutex);
    return started;
}

unsigned loop_session_count(void)
{
    return world.session_count;
}

struct loop *loop_session(unsigned index)
{
    INVARIANT(index < world.session_count);
    return &world.sessions[index]->base;
}

/* ------------------------------------------------------------------ the world */

struct main_call {
    int (*main)(void *argument);
    void *argument;
    int exit_code;
    bool ended;
};

static void main_fiber(void *argument)
{
    struct main_call *call = argument;

    call->exit_code = call->main(call->argument);
    call->ended = true;
    loop_command(world.sessions[0], LOOP_CANCEL); /* so that the loop does not sleep on it */
}

/* A connection is a descriptor: take as many as the administrator allows. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool world_open(unsigned session_loops)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (session_loops == 0)
        session_loops = cores > 0 ? (unsigned)cores : 1;
    session_loops = MIN_OF(session_loops, LOOPS_MAX / 2);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    setenv("UV_THREADPOOL_SIZE", "8", 0);
    struct kernel_loop *first = loop_new("sessions", LOOP_SESSIONS);
    if (!first)
        return false;
    loop_list(first);
    first->thread = pthread_self();
    world.sessions[0] = first;
    world.session_count = 1;
    while (world.session_count < session_loops) {
        struct loop *loop = loop_start("sessions", LOOP_SESSIONS);
        if (!loop)
            break; /* fewer loops serve as well */
        world.sessions[world.session_count++] = (struct kernel_loop *)loop;
    }
    scheduler_attach(&first->scheduler);
    return true;
}

static void command_others(enum loop_order order)
{
    pthread_mutex_lock(&world.mutex);
    world.stopping = true;
    for (struct kernel_loop *loop = world.loops; loop; loop = loop->next)
        loop_command(loop, order);
    pthread_mutex_unlock(&world.mutex);
}

/* Every fiber of every loop is cancelled and runs to its end; true when none is left. */
static bool world_drain(struct kernel_loop *first)
{
    const uint64_t until_us = deadline_in(STOP_PATIENCE_US);

    command_others(LOOP_CANCEL);
    while (fiber_count() > 0 && clock_now_us() < until_us)
        loop_turn(first, STOP_LOOK_US);
    process_signals_end(first);
    return fiber_count() == 0;
}

static void world_close(struct kernel_loop *first)
{
    command_others(LOOP_END);
    while (world.loops) {
        struct kernel_loop *loop = world.loops;

        world.loops = loop->next;
        if (loop != first)
            pthread_join(loop->thread, NULL);
        loop_free(loop);
    }
}

int world_run(int (*main)(void *argument), void *argument, unsigned session_loops)
{
    struct main_call call = {.main = main, .argument = argument, .exit_code = 75};

    INVARIANT(world.count == 0 && scheduler_of_thread() == NULL);
    if (!world_open(session_loops)) {
        fprintf(stderr, "cannot start an event loop: %s\n", strerror(errno));
        return call.exit_code;
    }
    struct kernel_loop *first = world.sessions[0];
    if (fiber_start_sized(&first->base, "main", main_fiber, &call))
        while (!call.ended)
            loop_turn(first, DEADLINE_NEVER);
    if (world_drain(first))
        world_close(first);
    else
        fprintf(stderr, "%u fibers did not end in time; they are given up\n", fiber_count());
    scheduler_attach(NULL);
    world.loops = NULL;
    world.count = world.session_count = 0;
    world.stopping = false;
    return call.exit_code;
}
