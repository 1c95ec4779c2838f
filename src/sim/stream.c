/*
 * Streams: what is written is cut into pieces that arrive in order after a seeded time. A side that
 * was closed answers further data with a reset, and closing with unread data resets too, as Linux
 * does. Data that arrived before a reset can still be read.
 */
#include "sim/network.h"

#include <errno.h>
#include <string.h>

enum { SEGMENT_BYTES = 1460, TRICKLE_BYTES = 2048 };
enum fragment { CUT_WHOLE, CUT_SEGMENTS, CUT_RANDOM, CUT_TRICKLE, CUT_KINDS };

static struct {
    struct connection *connections;
    uint64_t number;
} net;

static struct io_result sim_stream_read(struct stream *stream, struct span into,
                                        uint64_t deadline_us);
static struct io_result sim_stream_write(struct stream *stream, struct bytes from,
                                         uint64_t deadline_us);
static struct io_result sim_stream_wait(struct stream *stream, uint64_t deadline_us);
static void sim_stream_close(struct stream *stream, bool reset);
static size_t sim_stream_unacknowledged(const struct stream *stream);

static const struct stream_ops operations = {
    .read = sim_stream_read,
    .write = sim_stream_write,
    .wait_readable = sim_stream_wait,
    .close = sim_stream_close,
    .unacknowledged = sim_stream_unacknowledged,
};

/* ------------------------------------------------------------------ connections */

static void side_open(struct connection *connection, unsigned side, const struct endpoint *local,
                      const struct endpoint *remote)
{
    struct sim_stream *stream = &connection->sides[side];

    stream->stream = (struct stream){.ops = &operations, .local = *local, .remote = *remote};
    stream->connection = connection;
    stream->open = true;
    stream->in.room = weather()->buffer_bytes;
    stream->in.ring = malloc(stream->in.room); /* read only where it was written */
    INVARIANT(stream->in.ring != NULL);
}

struct connection *connection_new(const struct endpoint *dialer, const struct endpoint *acceptor)
{
    struct connection *connection = sim_new(sizeof *connection);

    connection->number = ++net.number;
    connection->fragment = weather()->fragment ? (unsigned)sim_below(CUT_KINDS) : CUT_WHOLE;
    side_open(connection, 0, dialer, acceptor);
    side_open(connection, 1, acceptor, dialer);
    connection->next = net.connections;
    if (net.connections)
        net.connections->previous = connection;
    net.connections = connection;
    return connection;
}

uint64_t sim_net_connections(void)
{
    return net.number;
}

unsigned sim_net_open(void)
{
    unsigned count = 0;

    for (const struct connection *connection = net.connections; connection;
         connection = connection->next)
        count += connection->sides[0].open || connection->sides[1].open;
    return count;
}

static void connection_free(struct connection *connection)
{
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        net.connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    free(connection->sides[0].in.ring);
    free(connection->sides[1].in.ring);
    free(connection);
}

static void connection_settle(struct connection *connection)
{
    if (!connection->sides[0].open && !connection->sides[1].open && connection->pending == 0)
        connection_free(connection);
}

void connections_close(void)
{
    while (net.connections)
        connection_free(net.connections);
}

void connections_forget(void)
{
    connections_close();
    net.number = 0;
}

static unsigned side_of(const struct sim_stream *stream)
{
    return stream == &stream->connection->sides[1];
}

static struct sim_stream *peer_of(const struct sim_stream *stream)
{
    return &stream->connection->sides[1 - side_of(stream)];
}

static void wake(struct fiber *fiber)
{
    if (fiber)
        fiber_wake(fiber);
}

/* ------------------------------------------------------------------ arrivals */

enum arrival_kind { ARRIVE_DATA, ARRIVE_END, ARRIVE_RESET };
struct arrival {
    struct sim_stream *to;
    enum arrival_kind kind;
    size_t count;
};

static void send(struct sim_stream *to, enum arrival_kind kind, size_t count);

static void arrive_reset(struct sim_stream *to)
{
    to->in.reset = true;
    to->in.under_way = 0;
    wake(to->in.reader);
    wake(peer_of(to)->in.writer); /* who writes from this side waits on the other side's pipe */
}

/* Nobody is there any more to read it: the sender learns that by a reset. */
static void arrive_at_nobody(struct sim_stream *to, const struct arrival *arrival)
{
    if (arrival->kind != ARRIVE_DATA)
        return;
    to->in.under_way -= MIN_OF(arrival->count, to->in.under_way);
    if (peer_of(to)->open)
        send(peer_of(to), ARRIVE_RESET, 0);
}

static void arrive_at(struct sim_stream *to, const struct arrival *arrival)
{
    const size_t count = MIN_OF(arrival->count, to->in.under_way);

    if (to->in.reset)
        return;
    if (arrival->kind == ARRIVE_RESET) {
        arrive_reset(to);
        return;
    }
    to->in.ended |= arrival->kind == ARRIVE_END;
    to->in.under_way -= count;
    to->in.ready += count;
    wake(to->in.reader);
}

static void arrive(void *argument)
{
    static const char *const names[] = {"data", "end", "reset"};
    struct arrival *arrival = argument;
    struct sim_stream *to = arrival->to;

    to->connection->pending--;
    trace_add("arrive", names[arrival->kind],
              to->connection->number << 32 | side_of(to) << 31 | arrival->count);
    if (to->open)
        arrive_at(to, arrival);
    else
        arrive_at_nobody(to, arrival);
    connection_settle(to->connection);
    free(arrival);
}

/* A lost segment of a stream comes again later, and all behind it with it. */
static void send(struct sim_stream *to, enum arrival_kind kind, size_t count)
{
    struct connection *connection = to->connection;
    struct arrival *arrival = sim_new(sizeof *arrival);
    uint64_t at_us = deadline_in(draw_latency_us() + connection->slow_us);

    if (sim_chance(weather()->loss_ppm))
        at_us += weather()->loss_delay_us;
    at_us = MAX_OF(at_us, to->in.last_arrival_us + 1);
    to->in.last_arrival_us = at_us;
    *arrival = (struct arrival){to, kind, count};
    connection->pending++;
    events_add_owned(at_us, arrive, arrival);
}

/* ------------------------------------------------------------------ armed faults */

static void break_connection(struct connection *connection, enum sim_net_kind kind)
{
    trace_add("break", kind == SIM_NET_RESET ? "reset" : "half open", connection->number);
    for (unsigned side = 0; side < 2; side++) {
        struct sim_stream *stream = &connection->sides[side];

        if (stream->in.swallowed)
            continue;
        stream->in.swallowed = true;
        if (kind == SIM_NET_RESET)
            send(stream, ARRIVE_RESET, 0);
    }
}

/* How much of the piece passes before the fault strikes; *strikes says whether it does then. */
static size_t let_pass(struct sim_stream *to, struct bytes piece, bool *strikes)
{
    const struct armed *armed = &to->connection->armed[1 - side_of(to)];
    uint64_t left = UINT64_MAX;

    *strikes = false;
    if (armed->kind == 0)
        return piece.count;
    if (armed->at_text) {
        const size_t at = bytes_find(piece, bytes_of_text(armed->at_text));

        left = at < piece.count ? at : UINT64_MAX;
    } else {
        left = armed->after_bytes - MIN_OF(to->in.passed, armed->after_bytes);
    }
    *strikes = left <= piece.count;
    return (size_t)MIN_OF(left, (uint64_t)piece.count);
}

/* ------------------------------------------------------------------ writing */

static size_t draw_piece(const struct connection *connection, size_t count, uint64_t passed)
{
    switch ((enum fragment)connection->fragment) {
    case CUT_WHOLE:
    case CUT_KINDS:
        return count;
    case CUT_SEGMENTS:
        return MIN_OF(count, (size_t)SEGMENT_BYTES);
    case CUT_RANDOM:
        return (size_t)chance_between(1, MIN_OF(count, (size_t)8 * SEGMENT_BYTES));
    case CUT_TRICKLE:
        return passed < TRICKLE_BYTES ? (size_t)chance_between(1, MIN_OF(count, (size_t)3))
                                      : MIN_OF(count, (size_t)SEGMENT_BYTES);
    }
    return count;
}

static void ring_put(struct pipe *pipe, struct bytes piece)
{
    for (size_t i = 0; i < piece.count;) {
        const size_t at = (pipe->at + pipe->ready + pipe->under_way) % pipe->room;
        const size_t part = MIN_OF(piece.count - i, pipe->room - at);

        memcpy(pipe->ring + at, piece.at + i, part);
        pipe->under_way += part;
        i += part;
    }
}

/* The piece fits. What is swallowed fills the window and never leaves it. */
static void put(struct sim_stream *to, struct bytes piece)
{
    ring_put(&to->in, piece);
    to->in.passed += piece.count;
    for (size_t sent = 0; sent < piece.count && !to->in.swallowed;) {
        const size_t part =
            draw_piece(to->connection, piece.count - sent, to->in.passed - piece.count + sent);

        send(to, ARRIVE_DATA, part);
        sent += part;
    }
}

static void put_or_break(struct sim_stream *to, struct bytes piece)
{
    bool strikes = false;
    const size_t passes = to->in.swallowed ? piece.count : let_pass(to, piece, &strikes);

    put(to, bytes_slice(piece, 0, passes));
    if (!strikes)
        return;
    struct armed *armed = &to->connection->armed[1 - side_of(to)];
    const enum sim_net_kind kind = armed->kind;
    armed->kind = 0;
    break_connection(to->connection, kind);
    put(to, bytes_skip(piece, passes));
}

static struct io_result write_error(struct sim_stream *stream, size_t done)
{
    struct io_result result = io_failed(stream->write_failed ? EPIPE : ECONNRESET);

    stream->write_failed = true;
    result.count = done;
    return result;
}

static struct io_result sim_stream_write(struct stream *stream, struct bytes from,
                                         uint64_t deadline_us)
{
    struct sim_stream *self = (struct sim_stream *)stream;
    struct sim_stream *peer = peer_of(self);
    enum io_status status = IO_OK;
    size_t done = 0;

    sim_die_if_crashed();
    trace_bytes("say", self->connection->number << 1 | side_of(self), from);
    while (done < from.count) {
        const size_t free_bytes = peer->in.room - peer->in.ready - peer->in.under_way;

        if (self->in.reset)
            return write_error(self, done);
        if (free_bytes == 0) {
            if (status != IO_OK)
                return (struct io_result){.status = status, .count = done};
            peer->in.writer = fiber_self();
            status = fiber_park(deadline_us);
            peer->in.writer = NULL;
            continue;
        }
        const size_t part = MIN_OF(from.count - done, free_bytes);
        put_or_break(peer, bytes_slice(from, done, part));
        done += part;
    }
    return io_ok(done);
}

/* ------------------------------------------------------------------ reading */

static size_t ring_get(struct pipe *pipe, struct span into)
{
    const size_t count = MIN_OF(into.count, pipe->ready);

    for (size_t i = 0; i < count;) {
        const size_t part = MIN_OF(count - i, pipe->room - pipe->at);

        memcpy(into.at + i, pipe->ring + pipe->at, part);
        pipe->at = (pipe->at + part) % pipe->room;
        i += part;
    }
    pipe->ready -= count;
    return count;
}

/* OK: something can be read; otherwise what a read would say. */
static struct io_result sim_stream_wait(struct stream *stream, uint64_t deadline_us)
{
    struct sim_stream *self = (struct sim_stream *)stream;
    enum io_status status = IO_OK;

    sim_die_if_crashed();
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    while (self->in.ready == 0 && !self->in.reset && !self->in.ended) {
        if (status != IO_OK)
            return io_status_only(status);
        self->in.reader = fiber_self();
        status = fiber_park(deadline_us);
        self->in.reader = NULL;
    }
    return io_ok(0);
}

static struct io_result sim_stream_read(struct stream *stream, struct span into,
                                        uint64_t deadline_us)
{
    struct sim_stream *self = (struct sim_stream *)stream;
    const struct io_result ready =
        into.count ? sim_stream_wait(stream, deadline_us) : io_failed(EINVAL);

    if (ready.status != IO_OK)
        return ready;
    if (self->in.ready == 0)
        return self->in.reset ? io_failed(ECONNRESET) : io_status_only(IO_END);
    if (sim_chance(100000))
        into.count = (size_t)chance_between(1, into.count);
    const size_t count = ring_get(&self->in, into);
    wake(self->in.writer);
    return io_ok(count);
}

/* ------------------------------------------------------------------ the end */

static void sim_stream_close(struct stream *stream, bool reset)
{
    struct sim_stream *self = (struct sim_stream *)stream;
    struct sim_stream *peer = peer_of(self);
    struct connection *connection = self->connection;

    INVARIANT(self->open);
    self->open = false;
    reset |= self->in.ready > 0;
    trace_add("close", reset ? "reset" : "", connection->number << 1 | side_of(self));
    if (peer->open && !peer->in.swallowed && !self->in.reset && !sim_world.crashed)
        send(peer, reset ? ARRIVE_RESET : ARRIVE_END, 0);
    connection_settle(connection);
}

/* What is on its way, and what was lost by a reset or a half-open connection. */
static size_t sim_stream_unacknowledged(const struct stream *stream)
{
    const struct sim_stream *own = CONTAINER_OF(stream, const struct sim_stream, stream);
    const struct sim_stream *peer = peer_of(own);

    return peer->in.under_way + (own->in.reset || peer->in.swallowed ? 1 : 0);
}
