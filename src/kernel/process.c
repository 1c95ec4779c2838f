/* Clocks, chance, the worker pool and signals. */
#include "kernel/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ clocks and chance */

static int64_t read_clock_us(clockid_t clock)
{
    struct timespec now;

    INVARIANT(clock_gettime(clock, &now) == 0);
    return (int64_t)now.tv_sec * (int64_t)US_PER_S + now.tv_nsec / 1000;
}

uint64_t clock_now_us(void)
{
    return (uint64_t)read_clock_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_us(void)
{
    return read_clock_us(CLOCK_REALTIME);
}

static void random_from_system(struct span into)
{
    for (size_t done = 0; done < into.count;) {
        const ssize_t count = getrandom(into.at + done, into.count - done, 0);

        INVARIANT(count > 0 || errno == EINTR);
        if (count > 0)
            done += (size_t)count;
    }
}

/* Small wishes come from a stock a thread: ids are drawn for every message. Used bytes are wiped.
 */
void random_fill(struct span into)
{
    static __thread uint8_t stock[256];
    static __thread size_t left;

    if (into.count > sizeof stock / 4) {
        random_from_system(into);
        return;
    }
    if (left < into.count) {
        random_from_system((struct span){stock, sizeof stock});
        left = sizeof stock;
    }
    left -= into.count;
    memcpy(into.at, stock + left, into.count);
    memset(stock + left, 0, into.count);
}

/* ------------------------------------------------------------------ the worker pool */

struct work {
    uv_work_t request;
    void (*work)(void *argument);
    void *argument;
    struct fiber *fiber;
    bool ended;
};

static void work_in_pool(uv_work_t *request)
{
    struct work *work = CONTAINER_OF(request, struct work, request);

    work->work(work->argument);
}

static void work_ended(uv_work_t *request, int status UNUSED)
{
    struct work *work = CONTAINER_OF(request, struct work, request);

    work->ended = true;
    fiber_wake(work->fiber);
}

/* The work uses the fiber's stack, so not even cancellation leaves before it has ended. On a
 * blocking loop, and outside of fibers, it runs at once. */
enum io_status work_run(void (*function)(void *argument), void *argument)
{
    struct kernel_loop *loop = kernel_loop_self();
    struct work work = {.work = function, .argument = argument, .fiber = fiber_self()};

    if (!loop || loop->base.kind == LOOP_BLOCKING) {
        function(argument);
        return IO_OK;
    }
    if (uv_queue_work(&loop->uv, &work.request, work_in_pool, work_ended) != 0)
        return IO_FAILED;
    const bool masked = fiber_mask_cancel(true);
    while (!work.ended)
        if (fiber_park(DEADLINE_NEVER) != IO_OK)
            break; /* impossible while masked and without a deadline */
    fiber_mask_cancel(masked);
    INVARIANT(work.ended);
    return IO_OK;
}

/* ------------------------------------------------------------------ descriptors */

bool process_has_descriptor(void)
{
    const int copy = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        return errno != EMFILE && errno != ENFILE;
    close(copy);
    return true;
}

/* ------------------------------------------------------------------ signals */

static const int SIGNALS[] = {SIGTERM, SIGINT, SIGHUP};

static struct {
    unsigned pending; /* atomic: bit i for SIGNALS[i] */
    int watched;      /* atomic */
    struct waitlist waiting;
    uv_signal_t handles[COUNT_OF(SIGNALS)];
} signals;

static void signal_came(uv_signal_t *handle, int number UNUSED)
{
    __atomic_fetch_or(&signals.pending, 1U << (handle - signals.handles), __ATOMIC_ACQ_REL);
    waitlist_wake_all(&signals.waiting);
}

static void signals_watch(void *argument UNUSED)
{
    struct kernel_loop *loop = kernel_loop_self();

    for (size_t i = 0; i < COUNT_OF(SIGNALS); i++) {
        INVARIANT(uv_signal_init(&loop->uv, &signals.handles[i]) == 0);
        INVARIANT(uv_signal_start(&signals.handles[i], signal_came, SIGNALS[i]) == 0);
    }
    loop_tend_uv(loop);
}

/* The handles live on the first loop. */
static void signals_begin(void)
{
    if (__atomic_exchange_n(&signals.watched, 1, __ATOMIC_ACQ_REL))
        return;
    struct loop *first = loop_session(0);
    if (loop_self() == first) {
        signals_watch(NULL);
        return;
    }
    struct fiber *fiber = fiber_start_on(first, "signals", signals_watch, NULL);
    INVARIANT(fiber != NULL);
}

void process_signals_end(struct kernel_loop *loop UNUSED)
{
    if (!__atomic_exchange_n(&signals.watched, 0, __ATOMIC_ACQ_REL))
        return;
    for (size_t i = 0; i < COUNT_OF(SIGNALS); i++)
        uv_close((uv_handle_t *)&signals.handles[i], NULL);
    __atomic_store_n(&signals.pending, 0, __ATOMIC_RELEASE);
}

static int signal_take(void)
{
    for (size_t i = 0; i < COUNT_OF(SIGNALS); i++)
        if (__atomic_fetch_and(&signals.pending, ~(1U << i), __ATOMIC_ACQ_REL) & (1U << i))
            return SIGNALS[i];
    return 0;
}

enum io_status process_wait_signal(int *signal_number, uint64_t deadline_us)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    signals_begin();
    waitlist_join(&signals.waiting, &waiter);
    while ((*signal_number = signal_take()) == 0 && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&signals.waiting, &waiter);
    return *signal_number ? IO_OK : status;
}
