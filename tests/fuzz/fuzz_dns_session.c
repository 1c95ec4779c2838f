/*
 * A direct question to a hostile name server, over UDP and over TCP: whatever packets come, also
 * foreign ones, an answer counts only when it bears our id and our question, and the wait ends.
 *
 * Input: one octet (the first bit: TCP), then the packets, with 0xff 0x00 between them. The first
 * two octets of a packet are replaced by our id unless its third has the highest bit off.
 */
#include "hostile_peer.h"
#include "resolve/direct.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server {
    struct bytes rest;
    uint16_t id;
    unsigned asked;
    struct hostile_peer peer;
    uint8_t packet[DIRECT_MESSAGE_MAX + 2];
} server;

static size_t next_packet(struct span into)
{
    const size_t end = bytes_find(server.rest, bytes_of("\xff\x00", 2));
    const size_t count = MIN_OF(end, into.count);

    if (server.rest.count == 0)
        return 0;
    memcpy(into.at, server.rest.at, count);
    server.rest = bytes_skip(server.rest, MIN_OF(end + 2, server.rest.count));
    if (count >= 3 && into.at[2] & 0x80) {
        into.at[0] = (uint8_t)(server.id >> 8);
        into.at[1] = (uint8_t)server.id;
    }
    return MAX_OF(count, (size_t)1);
}

/* The linker puts these in the places of the real ones. */
struct io_result __wrap_datagram_open(const struct endpoint *to, struct datagram **socket);
struct io_result __wrap_datagram_open(const struct endpoint *to, struct datagram **socket)
{
    (void)to;
    *socket = (struct datagram *)&server;
    return io_ok(0);
}

struct io_result __wrap_datagram_send(struct datagram *socket, struct bytes packet);
struct io_result __wrap_datagram_send(struct datagram *socket, struct bytes packet)
{
    (void)socket;
    server.id = direct_id(packet);
    server.asked++;
    return io_ok(packet.count);
}

struct io_result __wrap_datagram_receive(struct datagram *socket, struct span into,
                                         uint64_t deadline_us);
struct io_result __wrap_datagram_receive(struct datagram *socket, struct span into,
                                         uint64_t deadline_us)
{
    (void)socket, (void)deadline_us;
    const size_t count = next_packet(into);
    return count > 0 ? io_ok(count) : io_status_only(IO_TIMEOUT);
}

void __wrap_datagram_close(struct datagram *socket);
void __wrap_datagram_close(struct datagram *socket)
{
    (void)socket;
}

/* By TCP the packet is there once the question is: the id is known then. */
static void stream_asked(struct hostile_peer *peer, struct bytes said)
{
    server.id = direct_id(bytes_skip(said, 2));
    const size_t count = next_packet((struct span){server.packet + 2, DIRECT_MESSAGE_MAX});
    server.packet[0] = (uint8_t)(count >> 8);
    server.packet[1] = (uint8_t)count;
    peer->input = bytes_of(server.packet, count ? count + 2 : 0);
    peer->released = peer->input.count;
}

struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream);
struct io_result __wrap_stream_dial(const struct endpoint *at, const struct endpoint *from,
                                    uint64_t deadline_us, struct stream **stream)
{
    (void)at, (void)from, (void)deadline_us;
    hostile_open(&server.peer, BYTES_EMPTY, 7);
    server.peer.hears = stream_asked;
    *stream = &server.peer.stream;
    return io_ok(0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct direct_answer answer = {0};

    if (size < 2)
        return 0;
    server.rest = bytes_of(data + 1, size - 1);
    server.asked = 0;
    const struct direct_question question = {.server = {.family = ENDPOINT_IPV4, .port = 53},
                                             .name = BYTES_LITERAL("mail.example"),
                                             .type = DNS_MX,
                                             .tcp = data[0] & 1,
                                             .timeout_us = US_PER_S};
    resolve_direct(&arena, &question, &answer);
    INVARIANT(server.asked <= 2);
    INVARIANT(answer.outcome == DIRECT_ANSWERED || answer.outcome == DIRECT_MALFORMED ||
              answer.answer_count == 0);
    buffer_free(&server.peer.written);
    arena_clear(&arena);
    return 0;
}
