/*
 * A next hop for tests: a listener on loopback that plays one script a connection, over the real
 * loop. A script has a step a line:
 *     > TEXT      sends TEXT and CR LF
 *     >> TEXT     sends TEXT without a line end; a bar in it is sent as LF
 *     < TEXT      reads a line, which has to begin with TEXT
 *     .           reads a body up to CR LF . CR LF and keeps it
 *     reset       cuts the connection hard; the end of the script closes it in order
 *     hang        waits until the client goes away
 *     gone        the same, and the client must not say another octet
 *     anything    reads a piece of whatever comes, a TLS hello for one
 *     wait        waits until the test sets `go`
 *     tls         hands the connection to the server side of TLS
 */
#ifndef TESTS_SCRIPTED_PEER_H
#define TESTS_SCRIPTED_PEER_H

#include <string.h>

#include "world_check.h"
#include "crypto/crypto.h"
#include "wire/wire.h"

struct peer {
    const char *const *scripts; /* one a connection, NULL at the end */
    struct listener *listener;
    struct buffer heard; /* every line, with LF, and bodies */
    unsigned connections;
    bool ended, waits, go;
    struct fiber *owner, *fiber;
    struct tls_context *tls;
    struct endpoint client; /* of the last connection */
};

struct peer_session {
    struct peer *peer;
    struct stream *stream;
    struct wire_input input;
};

static bool peer_send(struct peer_session *session, struct bytes text, const char *end)
{
    struct buffer line = BUFFER_WITH_LIMIT(MIB);

    buffer_add(&line, text);
    for (size_t i = 0; end[0] == 0 && i < line.count; i++) {
        if (line.at[i] == '|')
            line.at[i] = '\n';
    }
    buffer_add_text(&line, end);
    const struct io_result result = stream_write(session->stream, buffer_view(&line), SOON_ENOUGH);
    buffer_free(&line);
    return result.status == IO_OK;
}

static bool peer_expect(struct peer_session *session, struct bytes begin)
{
    struct bytes line = BYTES_EMPTY;
    const enum wire_status status = wire_read_line(&session->input, SOON_ENOUGH, &line);

    buffer_add(&session->peer->heard, line);
    buffer_add_text(&session->peer->heard, "\n");
    const bool expected = status == WIRE_OK && bytes_starts_with(line, begin);
    CHECK(expected);
    if (!expected)
        fprintf(stderr, "peer, connection %u: expected '%.*s', got '%.*s' (status %d)\n",
                session->peer->connections, BYTES_PRINT(begin), BYTES_PRINT(line), (int)status);
    return expected;
}

static bool peer_body(struct peer_session *session)
{
    struct wire_data data = {.input = &session->input};
    enum wire_status status = WIRE_OK;

    while (status == WIRE_OK && !data.ended) {
        struct bytes piece = BYTES_EMPTY;
        status = wire_read_data(&data, SOON_ENOUGH, &piece);
        buffer_add(&session->peer->heard, piece);
    }
    CHECK(!data.malformed);
    return status == WIRE_OK;
}

static void peer_hang(struct peer_session *session)
{
    struct bytes piece;

    while (wire_read_raw(&session->input, 4096, SOON_ENOUGH, &piece) == WIRE_OK)
        ;
}

static bool peer_gone(struct peer_session *session)
{
    struct bytes piece = BYTES_EMPTY;
    const bool quiet = wire_read_raw(&session->input, 4096, SOON_ENOUGH, &piece) != WIRE_OK;

    CHECK(quiet);
    if (!quiet)
        fprintf(stderr, "peer: expected nothing, got '%.*s'\n", BYTES_PRINT(piece));
    return quiet;
}

static bool peer_secure(struct peer_session *session)
{
    struct tls_facts facts = {0};

    wire_input_close(&session->input);
    const struct io_result result =
        tls_accept(session->peer->tls, &session->stream, SOON_ENOUGH, &facts);
    if (result.status == IO_OK)
        wire_input_open(&session->input, session->stream);
    return result.status == IO_OK;
}

static bool peer_step(struct peer_session *session, struct bytes step, bool *reset)
{
    if (bytes_starts_with(step, BYTES_LITERAL(">> ")))
        return peer_send(session, bytes_skip(step, 3), "");
    if (bytes_starts_with(step, BYTES_LITERAL("> ")))
        return peer_send(session, bytes_skip(step, 2), "\r\n");
    if (bytes_starts_with(step, BYTES_LITERAL("< ")))
        return peer_expect(session, bytes_skip(step, 2));
    if (bytes_equal_text(step, "."))
        return peer_body(session);
    if (bytes_equal_text(step, "anything")) {
        struct bytes piece;
        return wire_read_raw(&session->input, 4096, SOON_ENOUGH, &piece) == WIRE_OK;
    }
    if (bytes_equal_text(step, "hang")) {
        peer_hang(session);
        return true;
    }
    if (bytes_equal_text(step, "gone"))
        return peer_gone(session);
    if (bytes_equal_text(step, "wait")) {
        session->peer->waits = true;
        fiber_wake(session->peer->owner);
        while (!session->peer->go && fiber_park(SOON_ENOUGH) == IO_OK)
            ;
        return true;
    }
    if (bytes_equal_text(step, "tls"))
        return peer_secure(session);
    *reset = bytes_equal_text(step, "reset");
    CHECK(*reset || step.count == 0);
    return true;
}

static void peer_play(struct peer *peer, struct stream *stream, const char *script)
{
    struct peer_session session = {.peer = peer, .stream = stream};
    struct bytes rest = bytes_of_text(script);
    bool reset = false, on = true;

    wire_input_open(&session.input, stream);
    while (on && rest.count > 0 && !reset) {
        struct bytes step;
        rest = bytes_cut(rest, '\n', &step);
        on = peer_step(&session, step, &reset);
    }
    if (!session.stream)
        return; /* the handshake failed and took it along */
    wire_input_close(&session.input);
    if (reset)
        stream_reset(session.stream);
    else
        stream_close(session.stream);
}

static void peer_main(void *argument)
{
    struct peer *peer = argument;

    for (; peer->scripts[peer->connections]; peer->connections++) {
        struct stream *stream = NULL;
        if (listener_accept(peer->listener, SOON_ENOUGH, &stream).status != IO_OK)
            break;
        peer->client = stream->remote;
        peer_play(peer, stream, peer->scripts[peer->connections]);
    }
    listener_close(peer->listener);
    peer->ended = true;
    fiber_wake(peer->owner);
}

/* Returns the port. */
static uint16_t peer_start(struct peer *peer, const char *const *scripts)
{
    struct endpoint at = {.family = ENDPOINT_IPV4,
                          .ip = {.family = ENDPOINT_IPV4, .octets = {127, 0, 0, 1}}};

    *peer = (struct peer){
        .scripts = scripts, .heard = BUFFER_WITH_LIMIT(64 * MIB), .owner = fiber_self()};
    CHECK(listener_open(&at, false, &peer->listener).status == IO_OK);
    const uint16_t port = listener_endpoint(peer->listener)->port;
    peer->fiber = fiber_start("peer", peer_main, peer);
    CHECK(peer->fiber != NULL);
    return port;
}

/* Waits until every script was played. */
static void peer_finish(struct peer *peer)
{
    while (!peer->ended) {
        if (fiber_park(SOON_ENOUGH) == IO_TIMEOUT)
            break;
    }
    CHECK(peer->ended);
    CHECK(!peer->scripts[peer->connections]);
    buffer_free(&peer->heard);
}

static inline bool peer_heard(const struct peer *peer, const char *text)
{
    const struct bytes heard = buffer_view(&peer->heard);
    return bytes_find(heard, bytes_of_text(text)) < heard.count;
}

static inline unsigned peer_heard_times(const struct peer *peer, const char *text)
{
    struct bytes heard = buffer_view(&peer->heard);
    unsigned count = 0;

    for (size_t at = bytes_find(heard, bytes_of_text(text)); at < heard.count;
         at = bytes_find(heard, bytes_of_text(text))) {
        heard = bytes_skip(heard, at + 1);
        count++;
    }
    return count;
}

#endif
