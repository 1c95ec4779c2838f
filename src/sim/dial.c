/* Listeners, dialling and datagrams of the simulated network. */
#include "sim/network.h"

#include <errno.h>
#include <string.h>

enum { BACKLOG = 512, PORT_FIRST = 32768, PORT_LAST = 60999 };

struct listener {
    struct listener *next;
    struct endpoint at;
    struct loop *loop; /* where it was opened, and is accepted from */
    bool shared;
    struct connection *queue[BACKLOG];
    size_t first, count;
    struct waitlist waiters;
};

static struct {
    struct listener *listeners;
    uint16_t next_port;
} net;

/* ------------------------------------------------------------------ listeners */

static uint16_t take_port(void)
{
    if (net.next_port < PORT_FIRST || net.next_port >= PORT_LAST)
        net.next_port = PORT_FIRST - 1;
    return ++net.next_port;
}

static bool same_place(const struct endpoint *a, const struct endpoint *b)
{
    if (a->family != b->family)
        return false;
    if (a->family == ENDPOINT_UNIX)
        return strcmp(a->path, b->path) == 0;
    return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

struct io_result listener_open(const struct endpoint *at, bool shared, struct listener **listener)
{
    struct endpoint wanted = *at;

    *listener = NULL;
    if (wanted.family == ENDPOINT_NONE)
        return io_failed(EAFNOSUPPORT);
    if (wanted.family != ENDPOINT_UNIX && wanted.port == 0)
        wanted.port = take_port();
    for (const struct listener *other = net.listeners; other; other = other->next)
        if (same_place(&other->at, &wanted) && !(shared && other->shared))
            return io_failed(EADDRINUSE);
    *listener = sim_new(sizeof **listener);
    (*listener)->at = wanted;
    (*listener)->loop = loop_self();
    (*listener)->shared = shared;
    (*listener)->next = net.listeners;
    net.listeners = *listener;
    return io_ok(0);
}

const struct endpoint *listener_endpoint(const struct listener *listener)
{
    return &listener->at;
}

static struct connection *queue_take(struct listener *listener)
{
    struct connection *connection = listener->queue[listener->first];

    listener->first = (listener->first + 1) % BACKLOG;
    listener->count--;
    return connection;
}

struct io_result listener_accept(struct listener *listener, uint64_t deadline_us,
                                 struct stream **stream)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    sim_die_if_crashed();
    *stream = NULL;
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    INVARIANT(listener->loop == loop_self());
    waitlist_join(&listener->waiters, &waiter);
    while (listener->count == 0 && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&listener->waiters, &waiter);
    if (listener->count == 0)
        return io_status_only(status);
    *stream = &queue_take(listener)->sides[1].stream;
    return io_ok(0);
}

void listener_close(struct listener *listener)
{
    struct listener **link = &net.listeners;

    if (!listener)
        return;
    while (listener->count > 0)
        stream_reset(&queue_take(listener)->sides[1].stream);
    while (*link != listener)
        link = &(*link)->next;
    *link = listener->next;
    free(listener);
}

/* Of several that share the address, a drawn one, as the kernel's hash would. */
static struct listener *listener_find(const struct endpoint *to)
{
    struct listener *found = NULL;
    uint64_t seen = 0;

    for (struct listener *listener = net.listeners; listener; listener = listener->next)
        if (endpoint_matches(&listener->at, to) && sim_below(++seen) == 0)
            found = listener;
    return found;
}

/* ------------------------------------------------------------------ dialling */

static struct endpoint source_of(const struct endpoint *to, const struct endpoint *from)
{
    static const struct ip_address ours4 = {ENDPOINT_IPV4, {192, 0, 2, 1}};
    static const struct ip_address ours6 = {ENDPOINT_IPV6, {0x20, 1, 0x0d, 0xb8, [15] = 1}};
    struct endpoint source = *to;

    if (to->family == ENDPOINT_UNIX) {
        source.path[0] = '\0';
        return source;
    }
    if (from)
        source = *from;
    else if (!ip_is_loopback(&to->ip))
        source.ip = to->family == ENDPOINT_IPV4 ? ours4 : ours6;
    source.family = source.ip.family = to->family;
    if (!from || source.port == 0)
        source.port = take_port();
    return source;
}

static struct io_result hang_until(uint64_t deadline_us)
{
    const enum io_status status = fiber_sleep_until(deadline_us);

    sim_die_if_crashed();
    return io_status_only(status == IO_OK ? IO_TIMEOUT : status);
}

/* The other side hears of it one latency later; by then it may have gone. */
static void close_unheard(struct connection *connection)
{
    stream_reset(&connection->sides[1].stream);
}

static struct io_result dial_refused(struct connection *connection, const struct endpoint *to)
{
    close_unheard(connection);
    stream_reset(&connection->sides[0].stream);
    return io_failed(to->family == ENDPOINT_UNIX ? ENOENT : ECONNREFUSED);
}

struct io_result stream_dial(const struct endpoint *to, const struct endpoint *from,
                             uint64_t deadline_us, struct stream **stream)
{
    char text[ENDPOINT_TEXT_MAX];

    sim_die_if_crashed();
    *stream = NULL;
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    trace_add("dial", endpoint_print(to, text, sizeof text), to->port);
    const struct endpoint source = source_of(to, from);
    struct connection *connection = connection_new(&source, to);
    const enum sim_net_kind forbidden = conditions_at_dial(to, connection);
    const uint64_t there_us = deadline_in(2 * draw_latency_us() + connection->slow_us);
    const enum io_status slept = fiber_sleep_until(MIN_OF(deadline_us, there_us));
    sim_die_if_crashed();
    struct listener *listener = listener_find(to);
    if (slept != IO_OK || clock_now_us() >= deadline_us || forbidden == SIM_NET_BLACK_HOLE ||
        (listener && listener->count == BACKLOG)) {
        close_unheard(connection);
        stream_reset(&connection->sides[0].stream);
        return slept != IO_OK ? io_status_only(slept) : hang_until(deadline_us);
    }
    if (!listener || forbidden == SIM_NET_REFUSE)
        return dial_refused(connection, to);
    listener->queue[(listener->first + listener->count++) % BACKLOG] = connection;
    waitlist_wake_one(&listener->waiters);
    *stream = &connection->sides[0].stream;
    return io_ok(0);
}

/* The fibers that waited are gone already. */
void network_close(void)
{
    while (net.listeners) {
        struct listener *next = net.listeners->next;

        free(net.listeners);
        net.listeners = next;
    }
    connections_close();
    datagrams_close();
    net.next_port = 0;
}
