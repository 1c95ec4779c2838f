/*
 * direct: one question to one server over one transport, as an operator with `dig` would ask it.
 *
 * Owns: its socket, until the answer. Sleeps: on the server, at most the question's time-out.
 * Fails: by the outcome; a foreign packet on the socket is passed over, not believed.
 */
#include "resolve/direct.h"

static enum direct_outcome outcome_of(struct io_result result)
{
    return result.status == IO_TIMEOUT ? DIRECT_SILENT : DIRECT_FAILED;
}

static void fail(struct direct_answer *answer, struct io_result result)
{
    answer->io = result;
    answer->outcome = outcome_of(result);
}

/* ------------------------------------------------------------------ UDP */

enum { UDP_TRIES = 2 };

/* Waits for the packet that bears our id. */
static struct io_result receive_ours(struct datagram *socket, struct span room, uint16_t id,
                                     uint64_t deadline_us)
{
    for (;;) {
        const struct io_result got = datagram_receive(socket, room, deadline_us);
        if (got.status != IO_OK || direct_id(bytes_of(room.at, got.count)) == id)
            return got;
    }
}

static struct io_result exchange_datagrams(const struct direct_question *question,
                                           struct bytes query, struct span room)
{
    struct datagram *socket = NULL;
    struct io_result result = datagram_open(&question->server, &socket);

    if (result.status != IO_OK)
        return result;
    for (unsigned i = 0; i < UDP_TRIES; i++) {
        result = datagram_send(socket, query);
        if (result.status == IO_OK)
            result = receive_ours(socket, room, direct_id(query),
                                  deadline_in(question->timeout_us / UDP_TRIES));
        if (result.status != IO_TIMEOUT)
            break;
    }
    datagram_close(socket);
    return result;
}

/* ------------------------------------------------------------------ TCP (RFC 7766) */

static struct io_result read_exactly(struct stream *stream, struct span into, uint64_t deadline_us)
{
    for (size_t at = 0; at < into.count;) {
        const struct io_result got =
            stream_read(stream, (struct span){into.at + at, into.count - at}, deadline_us);
        if (got.status != IO_OK)
            return got;
        at += got.count;
    }
    return io_ok(into.count);
}

static struct io_result exchange_over(struct stream *stream, struct bytes query, struct span room,
                                      uint64_t deadline_us)
{
    CLEANUP(buffer_free) struct buffer framed = BUFFER_WITH_LIMIT(4 * KIB);
    uint8_t length[2];

    buffer_add_u16(&framed, (uint16_t)query.count);
    buffer_add(&framed, query);
    if (framed.failed)
        return io_failed(0);
    struct io_result result = stream_write(stream, buffer_view(&framed), deadline_us);
    if (result.status == IO_OK)
        result = read_exactly(stream, (struct span){length, sizeof length}, deadline_us);
    if (result.status != IO_OK)
        return result;
    const size_t count = (size_t)length[0] << 8 | length[1];
    return read_exactly(stream, (struct span){room.at, MIN_OF(count, room.count)}, deadline_us);
}

static struct io_result exchange_stream(const struct direct_question *question, struct bytes query,
                                        struct span room)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    const uint64_t deadline_us = deadline_in(question->timeout_us);
    const struct io_result result = stream_dial(&question->server, NULL, deadline_us, &stream);

    return result.status == IO_OK ? exchange_over(stream, query, room, deadline_us) : result;
}

/* ------------------------------------------------------------------ a question */

void resolve_direct(struct arena *arena, const struct direct_question *question,
                    struct direct_answer *answer)
{
    CLEANUP(buffer_free) struct buffer query = BUFFER_WITH_LIMIT(2 * KIB);
    uint8_t *room = malloc(DIRECT_MESSAGE_MAX);
    uint16_t id = (uint16_t)random_u64();

    *answer = (struct direct_answer){.io = io_failed(0)};
    if (!room || !direct_encode(question, id, &query)) {
        free(room);
        return;
    }
    const struct span span = {room, DIRECT_MESSAGE_MAX};
    const struct io_result result = question->tcp
                                        ? exchange_stream(question, buffer_view(&query), span)
                                        : exchange_datagrams(question, buffer_view(&query), span);
    if (result.status != IO_OK)
        fail(answer, result);
    else if (direct_decode(arena, question, bytes_of(room, result.count), answer))
        answer->outcome = DIRECT_ANSWERED;
    else
        answer->outcome = DIRECT_MALFORMED;
    free(room);
}

/* ------------------------------------------------------------------ many */

struct volley {
    struct arena *arena;
    const struct direct_question *questions;
    struct direct_answer *answers;
    unsigned count, next, open;
    struct fiber *waiting;
};

/* Fibers of one loop take what is left, one after the other. */
static void volley_work(struct volley *volley)
{
    while (volley->next < volley->count) {
        const unsigned mine = volley->next++;
        resolve_direct(volley->arena, &volley->questions[mine], &volley->answers[mine]);
    }
}

static void volley_main(void *argument)
{
    struct volley *volley = argument;

    volley_work(volley);
    volley->open--;
    fiber_wake(volley->waiting);
}

void resolve_direct_all(struct arena *arena, const struct direct_question *questions,
                        struct direct_answer *answers, unsigned count)
{
    struct volley volley = {.arena = arena,
                            .questions = questions,
                            .answers = answers,
                            .count = count,
                            .waiting = fiber_self()};

    for (unsigned i = 1; i < MIN_OF(count, (unsigned)DIRECT_PARALLEL_MAX); i++)
        if (fiber_start("dns.direct", volley_main, &volley))
            volley.open++;
    volley_work(&volley);
    /* The others write into our memory: we wait for all, each bounded by its questions. */
    const bool masked = fiber_mask_cancel(true);
    while (volley.open > 0)
        fiber_park(deadline_in(60 * US_PER_S));
    fiber_mask_cancel(masked);
}
