/*
 * Scripted peers: fibers of the scenario that listen and serve, by a callback or by a script of a
 * few words. They live in the same world and end with it.
 */
#include "sim/inside.h"

#include <string.h>

enum { LINE_MOST = 4096, PEERS_MOST = 64 };
#define PEER_PATIENCE_US (600 * US_PER_S)

/* A place that is served; freed when the world ends. */
struct peer {
    struct peer *next;
    struct listener *listener;
    sim_peer *serve;
    void *argument;
    const char *script;
    uint64_t sessions;
};
struct peer_session {
    struct peer *peer;
    struct stream *stream;
};

static struct peer *peers;

void peers_close(void)
{
    while (peers) {
        struct peer *next = peers->next;

        free(peers);
        peers = next;
    }
}

static void session_main(void *argument)
{
    struct peer_session session = *(struct peer_session *)argument;

    free(argument);
    session.peer->serve(session.peer->argument, session.stream);
    stream_close(session.stream);
}

static void peer_main(void *argument)
{
    struct peer *peer = argument;
    struct stream *stream = NULL;

    while (listener_accept(peer->listener, DEADLINE_NEVER, &stream).status == IO_OK) {
        struct peer_session *session = sim_new(sizeof *session);

        *session = (struct peer_session){peer, stream};
        if (!fiber_start("peer", session_main, session)) {
            free(session);
            stream_reset(stream);
        }
    }
}

static struct peer *peer_open(const struct endpoint *at)
{
    struct peer *peer = sim_new(sizeof *peer);

    if (listener_open(at, false, &peer->listener).status != IO_OK) {
        free(peer);
        return NULL;
    }
    peer->next = peers;
    peers = peer;
    return peer;
}

bool sim_serve(const struct endpoint *at, sim_peer *serve, void *argument)
{
    struct peer *peer = peer_open(at);

    if (!peer)
        return false;
    peer->serve = serve;
    peer->argument = argument;
    return fiber_start("peers", peer_main, peer) != NULL;
}

/* ------------------------------------------------------------------ scripts */

struct player {
    struct stream *stream;
    struct buffer heard; /* read and not yet asked for */
    struct bytes line;   /* the last one, a view of `heard` */
    uint64_t deadline_us;
    bool over; /* closed, reset or hung */
};

static bool hear_line(struct player *player)
{
    buffer_drop_front(&player->heard, player->line.count);
    for (;;) {
        const struct bytes all = buffer_view(&player->heard);
        const size_t end = bytes_find_byte(all, '\n');
        uint8_t *room = NULL;

        if (end < all.count) {
            player->line = bytes_slice(all, 0, end + 1);
            return true;
        }
        player->line = BYTES_EMPTY;
        room = buffer_reserve(&player->heard, LINE_MOST);
        if (!room)
            return false;
        const struct io_result heard =
            stream_read(player->stream, (struct span){room, LINE_MOST}, player->deadline_us);
        if (heard.status != IO_OK)
            return false;
        buffer_claim(&player->heard, heard.count);
    }
}

static bool say_line(struct player *player, struct bytes text)
{
    struct buffer line = BUFFER_WITH_LIMIT(LINE_MOST);

    buffer_add(&line, text);
    buffer_add_text(&line, "\r\n");
    const struct io_result said =
        stream_write(player->stream, buffer_view(&line), player->deadline_us);
    buffer_free(&line);
    return said.status == IO_OK;
}

static bool hear_until(struct player *player, struct bytes text)
{
    while (hear_line(player))
        if (bytes_equal(bytes_trim(player->line), text))
            return true;
    return false;
}

static bool play_wait(struct bytes milliseconds)
{
    uint64_t duration_ms = 0;

    return bytes_to_u64(milliseconds, &duration_ms) &&
           fiber_sleep_until(deadline_in(duration_ms * US_PER_MS)) == IO_OK;
}

static bool play_line(struct player *player, struct bytes line)
{
    struct bytes word;
    const struct bytes rest = bytes_cut(line, ' ', &word);

    if (line.count == 0 || line.at[0] == '#')
        return true;
    if (bytes_equal_text(word, ">"))
        return say_line(player, rest);
    if (bytes_equal_text(word, "<"))
        return hear_line(player) && bytes_starts_with_nocase(player->line, rest);
    if (bytes_equal_text(word, "<~"))
        return hear_until(player, rest);
    if (bytes_equal_text(word, "wait"))
        return play_wait(rest);
    player->over = true;
    if (bytes_equal_text(word, "hang"))
        return fiber_sleep_until(player->deadline_us) == IO_OK;
    if (bytes_equal_text(word, "reset"))
        stream_reset(player->stream);
    else
        stream_close(player->stream);
    player->stream = NULL;
    return bytes_equal_text(word, "reset") || bytes_equal_text(word, "close");
}

/* *stream becomes NULL when the script ended it. */
static bool play(struct stream **stream, struct bytes script, uint64_t deadline_us)
{
    struct player player = {
        .stream = *stream, .heard = BUFFER_WITH_LIMIT(64 * KIB), .deadline_us = deadline_us};
    bool fine = true;

    while (fine && !player.over && script.count > 0) {
        struct bytes line;

        script = bytes_cut(script, '\n', &line);
        fine = play_line(&player, line);
    }
    buffer_free(&player.heard);
    *stream = player.stream;
    return fine;
}

bool sim_play(struct stream *stream, struct bytes script, uint64_t deadline_us)
{
    return play(&stream, script, deadline_us);
}

/* The part of the script for the session of that number, counted from 0; the last one repeats. */
static struct bytes script_part(struct bytes script, uint64_t number)
{
    static const char mark[] = "\n--\n";

    for (;;) {
        const size_t end = bytes_find(script, bytes_of_text(mark));

        if (end == script.count)
            return script;
        if (number-- == 0)
            return bytes_slice(script, 0, end + 1);
        script = bytes_skip(script, end + sizeof mark - 1);
    }
}

static void script_session_main(void *argument)
{
    struct peer_session session = *(struct peer_session *)argument;
    const struct bytes script =
        script_part(bytes_of_text(session.peer->script), session.peer->sessions++);

    free(argument);
    if (!play(&session.stream, script, deadline_in(PEER_PATIENCE_US)))
        trace_add("script", "not followed", session.peer->sessions);
    stream_close(session.stream);
}

static void script_main(void *argument)
{
    struct peer *peer = argument;
    struct stream *stream = NULL;

    while (listener_accept(peer->listener, DEADLINE_NEVER, &stream).status == IO_OK) {
        struct peer_session *session = sim_new(sizeof *session);

        *session = (struct peer_session){peer, stream};
        if (!fiber_start("script", script_session_main, session)) {
            free(session);
            stream_reset(stream);
        }
    }
}

bool sim_serve_script(const struct endpoint *at, const char *script)
{
    struct peer *peer = peer_open(at);

    if (!peer)
        return false;
    peer->script = script;
    return fiber_start("scripts", script_main, peer) != NULL;
}
