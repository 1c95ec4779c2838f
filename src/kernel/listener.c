/*
 * Listeners and datagrams. Each listener keeps one descriptor in reserve: when there are no others,
 * it is given up for a client, who is handed over marked, to be told so and let go; then it is
 * taken back. Where that fails, too, accept waits a little while the clients stand in the backlog.
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 1024 };
#define SHORTAGE_PAUSE_US (50 * US_PER_MS)

struct listener {
    struct poller poller;
    struct endpoint at;
    bool any_address; /* then each connection's own address has to be asked for */
    bool adopted;     /* the parent's: its socket file stays */
    int reserve;      /* open on nothing; -1 while it is lent to a client */
};

static bool is_any(const struct endpoint *at)
{
    static const uint8_t zero[16];

    return at->family != ENDPOINT_UNIX && memcmp(at->ip.octets, zero, ip_bytes(&at->ip)) == 0;
}

static int set_options(int descriptor, const struct endpoint *at, bool shared)
{
    const int yes = 1;

    if (at->family == ENDPOINT_UNIX)
        return 0;
    if (setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        (shared && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes) != 0) ||
        (at->family == ENDPOINT_IPV6 &&
         setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes) != 0))
        return errno;
    /* Accepted sockets inherit it, which saves a call for each. */
    return setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0 ? 0 : errno;
}

/* A socket file whose server is gone refuses; one that is served must not be taken away. */
static bool is_abandoned(const struct address_buffer *address, const char *path)
{
    struct stat facts;

    if (lstat(path, &facts) != 0 || !S_ISSOCK(facts.st_mode))
        return false;
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return false;
    const bool refused =
        connect(probe, &address->any, address->length) != 0 && errno == ECONNREFUSED;
    close(probe);
    return refused;
}

static int bind_and_listen(int descriptor, const struct endpoint *at, bool shared)
{
    struct address_buffer address;
    int error = 0;

    if (!address_of(at, &address))
        return EINVAL;
    error = set_options(descriptor, at, shared);
    if (error != 0)
        return error;
    if (bind(descriptor, &address.any, address.length) != 0) {
        error = errno;
        if (error != EADDRINUSE || at->family != ENDPOINT_UNIX || !is_abandoned(&address, at->path))
            return error;
        if (unlink(at->path) != 0 || bind(descriptor, &address.any, address.length) != 0)
            return errno;
    }
    return listen(descriptor, BACKLOG) == 0 ? 0 : errno;
}

static int family_of(const struct endpoint *at)
{
    return at->family == ENDPOINT_UNIX ? AF_UNIX : at->family == ENDPOINT_IPV6 ? AF_INET6 : AF_INET;
}

/* ------------------------------------------------------------------ sockets of a parent */

enum { ADOPTED_MOST = 2048 };

static struct {
    pthread_mutex_t lock; /* doors open on their own loops */
    struct adopted {
        struct endpoint at;
        int descriptor;
        unsigned taken;
    } * all;
    unsigned count;
} adopted_sockets = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_same_place(const struct endpoint *a, const struct endpoint *b)
{
    if (a->family != b->family)
        return false;
    if (a->family == ENDPOINT_UNIX)
        return strcmp(a->path, b->path) == 0;
    return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

bool listener_adopt(const struct endpoint *at, int descriptor)
{
    bool added = false;

    pthread_mutex_lock(&adopted_sockets.lock);
    if (!adopted_sockets.all)
        adopted_sockets.all = calloc(ADOPTED_MOST, sizeof *adopted_sockets.all);
    if (adopted_sockets.all && adopted_sockets.count < ADOPTED_MOST) {
        adopted_sockets.all[adopted_sockets.count++] =
            (struct adopted){.at = *at, .descriptor = descriptor};
        added = true;
    }
    pthread_mutex_unlock(&adopted_sockets.lock);
    return added;
}

void listener_disown(const struct endpoint *at)
{
    unsigned kept = 0;

    pthread_mutex_lock(&adopted_sockets.lock);
    for (unsigned i = 0; i < adopted_sockets.count; i++) {
        if (is_same_place(&adopted_sockets.all[i].at, at))
            close(adopted_sockets.all[i].descriptor);
        else
            adopted_sockets.all[kept++] = adopted_sockets.all[i];
    }
    adopted_sockets.count = kept;
    pthread_mutex_unlock(&adopted_sockets.lock);
}

/* The one that was taken least often, so that each loop gets its own. */
static int adopted_copy(const struct endpoint *at)
{
    struct adopted *chosen = NULL;

    pthread_mutex_lock(&adopted_sockets.lock);
    for (unsigned i = 0; i < adopted_sockets.count; i++) {
        struct adopted *one = &adopted_sockets.all[i];
        if (is_same_place(&one->at, at) && (!chosen || one->taken < chosen->taken))
            chosen = one;
    }
    const int copy = chosen ? fcntl(chosen->descriptor, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy >= 0)
        chosen->taken++;
    pthread_mutex_unlock(&adopted_sockets.lock);
    return copy;
}

int listener_adopted(const struct endpoint *at)
{
    return adopted_copy(at);
}

int listener_socket(const struct endpoint *at, bool shared, struct endpoint *bound)
{
    const int descriptor = socket(family_of(at), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (descriptor < 0)
        return -1;
    const int error = bind_and_listen(descriptor, at, shared);
    if (error == 0) {
        *bound = endpoint_of_local(descriptor);
        return descriptor;
    }
    close(descriptor);
    errno = error;
    return -1;
}

struct io_result listener_open(const struct endpoint *at, bool shared, struct listener **listener)
{
    struct listener *opened = calloc(1, sizeof *opened);
    struct endpoint bound;

    *listener = NULL;
    if (!opened)
        return io_failed(ENOMEM);
    int descriptor = adopted_copy(at);
    opened->adopted = descriptor >= 0;
    if (descriptor < 0)
        descriptor = listener_socket(at, shared, &bound);
    int error = descriptor < 0 ? errno : 0;
    if (error == 0)
        error = poller_open(&opened->poller, descriptor, false);
    if (error != 0) {
        if (descriptor >= 0)
            close(descriptor);
        free(opened);
        return io_failed(error);
    }
    opened->at = endpoint_of_local(descriptor);
    opened->reserve = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    opened->any_address = is_any(&opened->at);
    *listener = opened;
    return io_ok(0);
}

const struct endpoint *listener_endpoint(const struct listener *listener)
{
    return &listener->at;
}

static bool is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

/* accept(2): errors of the network that belonged to the connection are not the listener's. */
static bool is_lost_connection(int error)
{
    return error == EINTR || error == ECONNABORTED || error == EPROTO || error == ENETDOWN ||
           error == ENOPROTOOPT || error == EHOSTDOWN || error == ENONET || error == EHOSTUNREACH ||
           error == EOPNOTSUPP || error == ENETUNREACH || error == EPERM;
}

/* IO_OK: try again. */
static enum io_status after_refusal(struct listener *listener, int error, uint64_t deadline_us)
{
    if (error == EAGAIN || error == EWOULDBLOCK) {
        listener->poller.ready[FOR_READ] = READY_NO;
        return poller_wait(&listener->poller, FOR_READ, deadline_us);
    }
    if (is_shortage(error)) {
        const uint64_t pause_us = deadline_in(SHORTAGE_PAUSE_US);
        const enum io_status status = fiber_sleep_until(MIN_OF(pause_us, deadline_us));
        return status == IO_OK && pause_us >= deadline_us ? IO_TIMEOUT : status;
    }
    return is_lost_connection(error) ? IO_OK : IO_FAILED;
}

static int accept_one(const struct listener *listener, struct address_buffer *from)
{
    from->length = sizeof from->storage;
    return accept4(listener->poller.descriptor, &from->any, &from->length,
                   SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* A client that the listener's reserve pays for; -1 with an errno. Another thread may be quicker.
 */
static int accept_from_reserve(struct listener *listener, struct address_buffer *from)
{
    if (listener->reserve < 0) {
        errno = EMFILE;
        return -1;
    }
    close(listener->reserve);
    listener->reserve = -1;
    return accept_one(listener, from);
}

static struct io_result accepted(struct listener *listener, int descriptor,
                                 const struct address_buffer *from, struct stream **stream)
{
    const struct io_result result = stream_wrap(descriptor, false, stream);

    if (result.status != IO_OK)
        return result;
    (*stream)->remote = endpoint_of(from);
    (*stream)->local = listener->any_address ? endpoint_of_local(descriptor) : listener->at;
    loop_share();
    return result;
}

struct io_result listener_accept(struct listener *listener, uint64_t deadline_us,
                                 struct stream **stream)
{
    struct poller *poller = &listener->poller;

    *stream = NULL;
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    INVARIANT(poller->loop == kernel_loop_self());
    for (;;) {
        struct address_buffer from;
        if (listener->reserve < 0)
            listener->reserve = fcntl(poller->descriptor, F_DUPFD_CLOEXEC, 0);
        int descriptor = accept_one(listener, &from), error = descriptor < 0 ? errno : 0;
        const bool last = error == EMFILE || error == ENFILE;
        if (last) {
            descriptor = accept_from_reserve(listener, &from);
            error = descriptor < 0 ? errno : 0;
        }
        if (descriptor >= 0) {
            poller->ready[FOR_READ] = READY_MAYBE;
            const struct io_result result = accepted(listener, descriptor, &from, stream);
            if (result.status != IO_OK)
                continue;
            (*stream)->last_descriptor = last;
            return result;
        }
        const enum io_status status = after_refusal(listener, error, deadline_us);
        if (status == IO_FAILED)
            return io_failed(error);
        if (status != IO_OK)
            return io_status_only(status);
    }
}

static void listener_close_now(void *argument)
{
    struct listener *listener = argument;

    if (listener->at.family == ENDPOINT_UNIX && !listener->adopted)
        unlink(listener->at.path);
    if (listener->reserve >= 0)
        close(listener->reserve);
    if (listener->adopted)
        poller_forget(&listener->poller);
    poller_close(&listener->poller);
    free(listener);
}

void listener_close(struct listener *listener)
{
    if (listener->poller.loop == kernel_loop_self()) {
        listener_close_now(listener);
        return;
    }
    struct fiber *closer =
        fiber_start_on(&listener->poller.loop->base, "close", listener_close_now, listener);
    INVARIANT(closer != NULL);
}

/* ------------------------------------------------------------------ datagrams */

struct datagram {
    struct poller poller;
};

struct io_result datagram_open(const struct endpoint *to, struct datagram **socket_out)
{
    struct address_buffer address;
    struct datagram *opened = NULL;
    int error = 0;

    *socket_out = NULL;
    if (!address_of(to, &address))
        return io_failed(EINVAL);
    const int descriptor = socket(family_of(to), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return io_failed(errno);
    if (connect(descriptor, &address.any, address.length) != 0)
        error = errno;
    if (error == 0)
        opened = calloc(1, sizeof *opened);
    if (error == 0)
        error = opened ? poller_open(&opened->poller, descriptor, false) : ENOMEM;
    if (error != 0) {
        free(opened);
        close(descriptor);
        return io_failed(error);
    }
    *socket_out = opened;
    return io_ok(0);
}

struct io_result datagram_send(struct datagram *socket, struct bytes packet)
{
    ssize_t count = 0;

    do
        count =
            send(socket->poller.descriptor, packet.at, packet.count, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (count < 0 && errno == EINTR);
    return count < 0 ? io_failed(errno) : io_ok((size_t)count);
}

struct io_result datagram_receive(struct datagram *socket, struct span into, uint64_t deadline_us)
{
    struct poller *poller = &socket->poller;

    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    for (;;) {
        const enum io_status status = poller_wait(poller, FOR_READ, deadline_us);
        if (status != IO_OK)
            return io_status_only(status);
        const ssize_t count =
            recv(poller->descriptor, into.at, into.count, MSG_DONTWAIT | MSG_TRUNC);
        poller->ready[FOR_READ] = READY_MAYBE;
        if (count > 0 && (size_t)count > into.count)
            return io_failed(EMSGSIZE); /* a cut packet is no packet */
        if (count >= 0)
            return io_ok((size_t)count);
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            poller->ready[FOR_READ] = READY_NO;
        else if (errno != EINTR)
            return io_failed(errno);
    }
}

void datagram_close(struct datagram *socket)
{
    poller_close(&socket->poller);
    free(socket);
}
