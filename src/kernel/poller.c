/* Readiness of one descriptor: armed once, edge-triggered, remembered as flags. */
#include "kernel/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

static int poller_control(struct poller *poller, int operation)
{
    const unsigned events = EPOLLIN | EPOLLRDHUP | EPOLLET | (poller->wants_write ? EPOLLOUT : 0);
    struct epoll_event event = {.events = events, .data.ptr = poller};

    return epoll_ctl(poller->loop->epoll, operation, poller->descriptor, &event) == 0 ? 0 : errno;
}

int poller_open(struct poller *poller, int descriptor, bool for_write)
{
    INVARIANT(kernel_loop_self() != NULL); /* only fibers open sockets */
    *poller = (struct poller){
        .descriptor = descriptor, .loop = kernel_loop_self(), .wants_write = for_write};
    return poller_control(poller, EPOLL_CTL_ADD);
}

/* For a socket that others hold, too: it stays registered when this descriptor is closed. */
void poller_forget(struct poller *poller)
{
    INVARIANT(poller->loop == kernel_loop_self());
    INVARIANT(poller_control(poller, EPOLL_CTL_DEL) == 0);
}

/* The system forgets the registration with the last descriptor of the socket. */
void poller_close(struct poller *poller)
{
    INVARIANT(poller->loop == kernel_loop_self());
    INVARIANT(!poller->waiting[FOR_READ] && !poller->waiting[FOR_WRITE]);
    close(poller->descriptor);
    poller->descriptor = -1;
}

static void poller_ready(struct poller *poller, enum direction direction)
{
    poller->ready[direction] = READY_YES;
    if (poller->waiting[direction])
        fiber_wake(poller->waiting[direction]);
}

void poller_event(struct poller *poller, unsigned events)
{
    const unsigned ends = EPOLLHUP | EPOLLERR;

    if (events & (ends | EPOLLRDHUP))
        poller->hung_up = true;
    if (events & (EPOLLIN | EPOLLRDHUP | ends))
        poller_ready(poller, FOR_READ);
    if (events & (EPOLLOUT | ends))
        poller_ready(poller, FOR_WRITE);
}

enum io_status poller_wait(struct poller *poller, enum direction direction, uint64_t deadline_us)
{
    INVARIANT(poller->loop == kernel_loop_self());
    INVARIANT(!poller->waiting[direction]); /* one fiber a direction */
    if (direction == FOR_WRITE && !poller->wants_write) {
        poller->wants_write = true;
        const int error = poller_control(poller, EPOLL_CTL_MOD);
        INVARIANT(error == 0 || error == ENOMEM);
        if (error != 0)
            return IO_FAILED;
    }
    while (poller->ready[direction] == READY_NO) {
        poller->waiting[direction] = fiber_self();
        poller->loop->streak = 0;
        const enum io_status status = fiber_park(deadline_us);
        poller->waiting[direction] = NULL;
        if (status == IO_CANCELLED)
            return status;
        if (status != IO_OK && poller->ready[direction] == READY_NO)
            return status;
    }
    return IO_OK;
}

/* IO_TIMEOUT: not yet. */
static struct io_result poll_now(int descriptor, bool for_write)
{
    struct pollfd question = {.fd = descriptor, .events = for_write ? POLLOUT : POLLIN};
    const int count = poll(&question, 1, 0);

    if (count > 0 && (question.revents & POLLNVAL))
        return io_failed(EBADF);
    return io_status_only(count > 0 ? IO_OK : IO_TIMEOUT);
}

static struct io_result wait_registered(struct poller *poller, enum direction direction,
                                        uint64_t deadline_us)
{
    poller->ready[direction] = READY_NO;
    const enum io_status status = poller_wait(poller, direction, deadline_us);

    epoll_ctl(poller->loop->epoll, EPOLL_CTL_DEL, poller->descriptor, NULL);
    return status == IO_OK ? io_ok(0) : io_status_only(status);
}

/* A descriptor that is already registered (the other direction, by another fiber) is registered
 * once more under a second number. */
static struct io_result wait_duplicate(int descriptor, bool for_write, uint64_t deadline_us)
{
    struct poller poller;
    const int second = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);

    if (second < 0)
        return io_failed(errno);
    const int error = poller_open(&poller, second, for_write);
    const struct io_result result =
        error ? io_failed(error)
              : wait_registered(&poller, for_write ? FOR_WRITE : FOR_READ, deadline_us);
    close(second);
    return result;
}

struct io_result descriptor_wait(int descriptor, bool for_write, uint64_t deadline_us)
{
    struct poller poller;

    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    const struct io_result now = poll_now(descriptor, for_write);
    if (now.status != IO_TIMEOUT) {
        loop_share();
        return now;
    }
    const int error = poller_open(&poller, descriptor, for_write);
    if (error == EEXIST)
        return wait_duplicate(descriptor, for_write, deadline_us);
    if (error != 0)
        return io_failed(error);
    return wait_registered(&poller, for_write ? FOR_WRITE : FOR_READ, deadline_us);
}
