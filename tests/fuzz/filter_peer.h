/*
 * A filter that says what the input has, and a message of one letter for it. The first octet
 * chooses the size of the pieces, the second how it goes on: at once, or in parts with 0xff between
 * them, each let out by one of our writes.
 */
#ifndef TESTS_FILTER_PEER_H
#define TESTS_FILTER_PEER_H

#include "../unit/memory_stream.h"
#include "hostile_peer.h"
#include "wire/filter.h"

enum { FILTER_CUTS_WRITES = 1, FILTER_IN_PARTS = 2, FILTER_GETS_MUCH = 4 };
enum { FILTER_SMALL_BYTES = 100, FILTER_LARGE_BYTES = 300000, FILTER_WRITES_BYTES = 50 };

static struct io_result filter_body_read(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)offset;
    memset(into.at, 'x', into.count);
    return io_ok(into.count);
}

struct filter_peer {
    struct message_source body;
    struct bytes answer;
    struct hostile_peer in_parts; /* when `parts` */
    struct memory_stream at_once;
    bool parts;
    struct stream *stream; /* of one of the two */
    struct buffer *written;
};

static inline bool filter_peer_open(struct filter_peer *peer, const uint8_t *data, size_t size)
{
    if (size < 2)
        return false;
    const unsigned options = data[1];
    const size_t limit = options & FILTER_CUTS_WRITES ? FILTER_WRITES_BYTES : SIZE_MAX;

    *peer = (struct filter_peer){
        .body = {filter_body_read, NULL,
                 options & FILTER_GETS_MUCH ? FILTER_LARGE_BYTES : FILTER_SMALL_BYTES},
        .answer = bytes_of(data + 2, size - 2),
        .parts = options & FILTER_IN_PARTS};
    if (peer->parts) {
        hostile_open(&peer->in_parts, peer->answer, data[0]);
        peer->in_parts.write_limit = limit;
        peer->stream = &peer->in_parts.stream;
        peer->written = &peer->in_parts.written;
        return true;
    }
    peer->at_once = memory_stream_of(peer->answer);
    peer->at_once.fragment = data[0];
    peer->at_once.write_limit = limit;
    peer->stream = &peer->at_once.stream;
    peer->written = &peer->at_once.written;
    return true;
}

#endif
