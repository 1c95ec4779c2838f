/*
 * TCP and Unix streams, and dialling. Reads and writes try first and sleep only when the socket has
 * nothing to give; a cancelled fiber may still write what fits at once (its last words).
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define UNIX_BACKLOG_PAUSE_US (10 * US_PER_MS)

struct socket_stream {
    struct stream base;
    struct poller poller;
};

static struct socket_stream *socket_of(struct stream *stream)
{
    return CONTAINER_OF(stream, struct socket_stream, base);
}

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

static struct io_result wait_result(struct poller *poller, enum direction direction,
                                    uint64_t deadline_us)
{
    const enum io_status status = poller_wait(poller, direction, deadline_us);

    return status == IO_FAILED ? io_failed(ENOMEM) : io_status_only(status);
}

static struct io_result socket_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct poller *poller = &socket_of(stream)->poller;

    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    if (into.count == 0)
        return io_failed(EINVAL);
    for (;;) {
        const struct io_result waited = wait_result(poller, FOR_READ, deadline_us);
        if (waited.status != IO_OK)
            return waited;
        const ssize_t count = recv(poller->descriptor, into.at, into.count, MSG_DONTWAIT);
        if (count > 0) {
            /* A short read emptied the socket; what comes later, its end too, is a new event. */
            const bool emptied = (size_t)count < into.count && !poller->hung_up;
            poller->ready[FOR_READ] = emptied ? READY_NO : READY_MAYBE;
            loop_share();
            return io_ok((size_t)count);
        }
        if (count == 0)
            return io_status_only(IO_END);
        if (would_block(errno))
            poller->ready[FOR_READ] = READY_NO;
        else if (errno != EINTR)
            return io_failed(errno);
    }
}

static struct io_result socket_write(struct stream *stream, struct bytes from, uint64_t deadline_us)
{
    struct poller *poller = &socket_of(stream)->poller;
    size_t done = 0;

    loop_share();
    while (done < from.count) {
        const ssize_t count = send(poller->descriptor, from.at + done, from.count - done,
                                   MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0) {
            done += (size_t)count;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (!would_block(errno))
            return (struct io_result){.status = IO_FAILED, .error = errno, .count = done};
        poller->ready[FOR_WRITE] = READY_NO;
        struct io_result waited = wait_result(poller, FOR_WRITE, deadline_us);
        waited.count = done;
        if (waited.status != IO_OK)
            return waited;
    }
    return io_ok(done);
}

static struct io_result socket_wait_readable(struct stream *stream, uint64_t deadline_us)
{
    struct poller *poller = &socket_of(stream)->poller;
    uint8_t byte = 0;

    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    while (poller->ready[FOR_READ] != READY_YES) {
        if (poller->ready[FOR_READ] == READY_MAYBE) {
            const ssize_t count = recv(poller->descriptor, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
            if (count >= 0 || !would_block(errno))
                break; /* data, the end or an error: a read will tell */
            poller->ready[FOR_READ] = READY_NO;
        }
        const struct io_result waited = wait_result(poller, FOR_READ, deadline_us);
        if (waited.status != IO_OK)
            return waited;
    }
    return io_ok(0);
}

static size_t socket_unacknowledged(const struct stream *stream)
{
    const struct socket_stream *socket = CONTAINER_OF(stream, const struct socket_stream, base);
    int pending = 0;

    if (ioctl(socket->poller.descriptor, SIOCOUTQ, &pending) != 0)
        return 0;
    return (size_t)MAX_OF(pending, 0);
}

static void socket_close_now(struct socket_stream *socket)
{
    poller_close(&socket->poller);
    free(socket);
}

static void socket_close_fiber(void *argument)
{
    socket_close_now(argument);
}

static void socket_close(struct stream *stream, bool reset)
{
    struct socket_stream *socket = socket_of(stream);
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (reset)
        setsockopt(socket->poller.descriptor, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (socket->poller.loop == kernel_loop_self()) {
        socket_close_now(socket);
        return;
    }
    /* Its loop may be about to mark it ready, so it is closed over there. */
    struct fiber *closer =
        fiber_start_on(&socket->poller.loop->base, "close", socket_close_fiber, socket);
    INVARIANT(closer != NULL);
}

static const struct stream_ops socket_ops = {
    .read = socket_read,
    .write = socket_write,
    .wait_readable = socket_wait_readable,
    .close = socket_close,
    .unacknowledged = socket_unacknowledged,
};

struct io_result stream_wrap(int descriptor, bool for_write, struct stream **stream)
{
    struct socket_stream *socket = calloc(1, sizeof *socket);
    const int error = socket ? poller_open(&socket->poller, descriptor, for_write) : ENOMEM;

    if (error != 0) {
        free(socket);
        close(descriptor);
        return io_failed(error);
    }
    socket->base.ops = &socket_ops;
    *stream = &socket->base;
    return io_ok(0);
}

bool stream_peer_user(struct stream *stream, uint32_t *user)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (stream->ops != &socket_ops ||
        getsockopt(socket_of(stream)->poller.descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &size) !=
            0 ||
        size != sizeof peer)
        return false;
    *user = peer.uid;
    return true;
}

/* ------------------------------------------------------------------ dialling */

static int set_flag(int descriptor, int level, int name)
{
    const int yes = 1;

    return setsockopt(descriptor, level, name, &yes, sizeof yes) == 0 ? 0 : errno;
}

/* A socket bound as asked, or -errno. */
static int dial_socket(const struct address_buffer *to, const struct endpoint *from)
{
    struct address_buffer source;
    const int descriptor = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error = 0;

    if (descriptor < 0)
        return -errno;
    if (to->any.sa_family != AF_UNIX)
        error = set_flag(descriptor, IPPROTO_TCP, TCP_NODELAY);
    if (error == 0 && from && to->any.sa_family != AF_UNIX) {
        set_flag(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
        if (!address_of(from, &source))
            error = EINVAL;
        else if (bind(descriptor, &source.any, source.length) != 0)
            error = errno;
    }
    if (error == 0)
        return descriptor;
    close(descriptor);
    return -error;
}

static struct io_result finish_connect(struct socket_stream *socket, uint64_t deadline_us)
{
    int error = 0;
    socklen_t length = sizeof error;

    socket->poller.ready[FOR_WRITE] = READY_NO;
    const struct io_result waited = wait_result(&socket->poller, FOR_WRITE, deadline_us);
    if (waited.status != IO_OK)
        return waited;
    if (getsockopt(socket->poller.descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
        error = errno;
    return error ? io_failed(error) : io_ok(0);
}

static struct io_result dial_connect(struct socket_stream *socket, const struct address_buffer *to,
                                     uint64_t deadline_us)
{
    for (;;) {
        if (connect(socket->poller.descriptor, &to->any, to->length) == 0) {
            /* What the unconnected socket said while we waited for room does not count. */
            socket->poller.ready[FOR_READ] = READY_MAYBE;
            socket->poller.hung_up = false;
            return io_ok(0);
        }
        if (errno == EINPROGRESS)
            return finish_connect(socket, deadline_us);
        if (errno == EINTR)
            continue;
        if (!would_block(errno) || to->any.sa_family != AF_UNIX)
            return io_failed(errno);
        /* A Unix listener with a full backlog says EAGAIN and gives no event when it has room. */
        const uint64_t pause_us = MIN_OF(deadline_in(UNIX_BACKLOG_PAUSE_US), deadline_us);
        if (fiber_sleep_until(pause_us) != IO_OK)
            return io_status_only(IO_CANCELLED);
        if (clock_now_us() >= deadline_us)
            return io_status_only(IO_TIMEOUT);
    }
}

struct io_result stream_dial(const struct endpoint *to, const struct endpoint *from,
                             uint64_t deadline_us, struct stream **stream)
{
    struct address_buffer address;
    struct stream *dialled = NULL;

    *stream = NULL;
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    if (!address_of(to, &address))
        return io_failed(EINVAL);
    const int descriptor = dial_socket(&address, from);
    if (descriptor < 0)
        return io_failed(-descriptor);
    struct io_result result = stream_wrap(descriptor, to->family != ENDPOINT_UNIX, &dialled);
    if (result.status != IO_OK)
        return result;
    result = dial_connect(socket_of(dialled), &address, deadline_us);
    if (result.status != IO_OK) {
        stream_close(dialled);
        return result;
    }
    dialled->remote = *to;
    dialled->local = endpoint_of_local(descriptor);
    *stream = dialled;
    return result;
}
