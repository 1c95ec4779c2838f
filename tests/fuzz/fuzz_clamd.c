/* clamd's answer: clean only for the one complete word, however it is cut and whenever it comes. */
#include "../unit/memory_stream.h"
#include "hostile_peer.h"
#include "wire/clamd.h"

enum { CUT_WRITES = 1, IN_PARTS = 2, LARGE = 4, SMALL_BYTES = 100, LARGE_BYTES = 300000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct io_result read_body(void *argument, struct span into, uint64_t offset)
{
    (void)argument;
    (void)offset;
    memset(into.at, 'x', into.count);
    return (struct io_result){.status = IO_OK, .count = into.count};
}

/* Nothing is clean before all of it was sent. */
static void check_clean(const struct clamd_verdict *verdict, const struct buffer *written,
                        uint64_t size_bytes)
{
    if (verdict->result == CLAMD_CLEAN)
        INVARIANT(written->count > size_bytes &&
                  bytes_ends_with_nocase(buffer_view(written), BYTES_LITERAL("x\0\0\0\0")));
    INVARIANT((verdict->result == CLAMD_FAILED) == (verdict->fault != FILTER_FAULT_NONE));
}

static void answer_at_once(struct arena *arena, const struct message_source *body,
                           struct memory_stream *memory)
{
    const struct bytes answer = memory->input;
    const struct clamd_verdict verdict =
        clamd_talk_scan(arena, &memory->stream, body, DEADLINE_NEVER);

    check_clean(&verdict, &memory->written, body->size_bytes);
    if (verdict.result == CLAMD_CLEAN) {
        INVARIANT(memory->write_limit == SIZE_MAX);
        INVARIANT(bytes_starts_with(answer, BYTES_LITERAL("stream: OK")));
        INVARIANT(answer.at[10] == 0 || answer.at[10] == '\n');
    }
    memory->at = 0; /* the same as the answer to a ping */
    const struct clamd_verdict pinged = clamd_talk_ping(arena, &memory->stream, DEADLINE_NEVER);
    if (pinged.result == CLAMD_CLEAN)
        INVARIANT(bytes_starts_with(answer, BYTES_LITERAL("PONG")));
    buffer_free(&memory->written);
}

/* Parts with 0xff between them, each let out by one of our writes. */
static void answer_in_parts(struct arena *arena, const struct message_source *body,
                            struct hostile_peer *peer)
{
    const struct clamd_verdict verdict =
        clamd_talk_scan(arena, &peer->stream, body, DEADLINE_NEVER);

    check_clean(&verdict, &peer->written, body->size_bytes);
    buffer_free(&peer->written);
}

/* The first byte chooses the cut, the second whether writing fails half-way, and the rest. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);

    if (size < 2)
        return 0;
    const struct bytes answer = bytes_of(data + 2, size - 2);
    const size_t limit = data[1] & CUT_WRITES ? 50 : SIZE_MAX;
    const struct message_source body = {read_body, NULL,
                                        data[1] & LARGE ? LARGE_BYTES : SMALL_BYTES};
    if (data[1] & IN_PARTS) {
        struct hostile_peer peer;
        hostile_open(&peer, answer, data[0]);
        peer.write_limit = limit;
        answer_in_parts(&arena, &body, &peer);
    } else {
        struct memory_stream memory = memory_stream_of(answer);
        memory.fragment = data[0];
        memory.write_limit = limit;
        answer_at_once(&arena, &body, &memory);
    }
    arena_clear(&arena);
    return 0;
}
