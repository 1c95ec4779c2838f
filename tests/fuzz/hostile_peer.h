/*
 * The other end of a connection that we opened, as a fuzzer's input has it. What the peer says
 * comes in parts with 0xff between them; the first is there at once, and each thing that we say
 * lets out the next one, as on a wire. So an answer can be late, early, whole, cut, or to a
 * question that was never asked. It never sleeps, so that no network and no clock is needed.
 */
#ifndef TESTS_HOSTILE_PEER_H
#define TESTS_HOSTILE_PEER_H

#include <errno.h>
#include <string.h>

#include "runtime/runtime.h"

enum { PART_END = 0xff };

struct hostile_peer {
    struct stream stream;
    struct bytes input;
    size_t at, released;   /* read, and readable */
    size_t fragment;       /* most of one read; 0: whatever there is */
    struct buffer written; /* what we said */
    size_t write_limit;    /* after so many octets the connection is gone */
    bool begun;            /* the first part is out */
    void (*hears)(struct hostile_peer *peer, struct bytes said); /* before the next part; or NULL */
};

/* The mark before a part is neither said nor heard. */
static inline void hostile_release(struct hostile_peer *peer)
{
    const size_t mark = peer->begun && peer->released < peer->input.count ? 1 : 0;

    peer->begun = true;
    peer->released += mark;
    peer->released += bytes_find_byte(bytes_skip(peer->input, peer->released), PART_END);
}

static struct io_result hostile_read(struct stream *stream, struct span into, uint64_t deadline_us)
{
    struct hostile_peer *peer = CONTAINER_OF(stream, struct hostile_peer, stream);

    (void)deadline_us;
    while (peer->at < peer->released && peer->input.at[peer->at] == PART_END)
        peer->at++;
    const struct bytes ready =
        bytes_slice(peer->input, peer->at, MIN_OF(peer->released - peer->at, into.count));
    const size_t part = bytes_find_byte(ready, PART_END);
    const size_t count = peer->fragment ? MIN_OF(part, peer->fragment) : part;
    if (count == 0)
        return io_status_only(IO_END);
    memcpy(into.at, ready.at, count);
    peer->at += count;
    return io_ok(count);
}

static struct io_result hostile_write(struct stream *stream, struct bytes from,
                                      uint64_t deadline_us)
{
    struct hostile_peer *peer = CONTAINER_OF(stream, struct hostile_peer, stream);
    const size_t room = peer->write_limit - MIN_OF(peer->write_limit, peer->written.count);

    (void)deadline_us;
    buffer_add(&peer->written, bytes_slice(from, 0, room));
    if (from.count > room)
        return (struct io_result){.status = IO_FAILED, .error = EPIPE, .count = room};
    if (peer->hears)
        peer->hears(peer, from);
    hostile_release(peer);
    return io_ok(from.count);
}

/* A look without patience, whether the peer speaks out of turn, finds nothing when there is
 * nothing; who waits learns that the peer is gone. */
static struct io_result hostile_wait(struct stream *stream, uint64_t deadline_us)
{
    const struct hostile_peer *peer = CONTAINER_OF(stream, struct hostile_peer, stream);

    return peer->at == peer->released && deadline_us <= clock_now_us() ? io_status_only(IO_TIMEOUT)
                                                                       : io_ok(0);
}

static void hostile_close(struct stream *stream, bool reset)
{
    (void)stream, (void)reset;
}

static const struct stream_ops hostile_ops = {.read = hostile_read,
                                              .write = hostile_write,
                                              .wait_readable = hostile_wait,
                                              .close = hostile_close};

static inline void hostile_open(struct hostile_peer *peer, struct bytes input, size_t fragment)
{
    *peer = (struct hostile_peer){.stream.ops = &hostile_ops,
                                  .input = input,
                                  .fragment = fragment,
                                  .written = BUFFER_WITH_LIMIT(4 * MIB),
                                  .write_limit = SIZE_MAX};
    hostile_release(peer);
}

#endif
